import { JobsGatewayError } from "./errors.js";

/** Browsers have no files. */
export async function saveFile(_path: string, _chunks: AsyncIterable<Uint8Array>): Promise<never> {
  throw new JobsGatewayError({ code: "NO_FILE_SYSTEM", detail: "Only Node can write files. Use artifact.blob() here." });
}
