import { JobsGatewayError } from "./errors.js";

/** Browsers have no files. */
export async function saveFile(_path: string, _chunks: AsyncIterable<Uint8Array>): Promise<never> {
  const detail = "Browsers cannot write files. Use artifact.blob() here.";
  throw new JobsGatewayError({ code: "NO_FILE_SYSTEM", detail });
}

export const subtle = globalThis.crypto.subtle;
