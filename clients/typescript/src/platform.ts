import { randomBytes, webcrypto } from "node:crypto";
import { rename, rm, writeFile } from "node:fs/promises";

/** Writes to a temporary file beside `path`, and renames it: no other process sees half a file. */
export async function saveFile(path: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.part`;
  try {
    await writeFile(temporary, chunks, { flag: "wx" });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Node 18 has no global `crypto`. */
export const subtle = webcrypto.subtle as SubtleCrypto;
