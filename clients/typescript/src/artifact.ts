import { saveFile } from "#platform";

import { DownloadError, JobsGatewayError } from "./errors.js";
import { isTransient, Retries, sleep } from "./retries.js";
import type { Exchange, Transport } from "./transport.js";
import type { ArtifactResponse, RequestOptions } from "./types.js";

/** What stores answer to an expired link. */
const REFUSED_STATUSES = new Set([400, 401, 403]);
/** The most fresh links that one download asks for because the one before was refused. */
const MOST_LINKS = 5;

/** A picture that a job made. */
export class Artifact implements ArtifactResponse {
  /** A link that expires; `refresh` renews it. */
  image_url: string;
  readonly kind: string;
  readonly role: string;
  readonly label: string | null;
  readonly meta: Record<string, unknown>;
  readonly #transport: Transport;
  readonly #read: ReadArtifacts;

  /** @internal `readArtifacts` reads the artifacts again that this one was among, with fresh links. */
  constructor(response: ArtifactResponse, transport: Transport, readArtifacts: ReadArtifacts) {
    this.image_url = response.image_url;
    this.kind = response.kind;
    this.role = response.role;
    this.label = response.label;
    this.meta = response.meta;
    this.#transport = transport;
    this.#read = readArtifacts;
  }

  /** Asks the gateway for a link that works now, stores it in `image_url` and returns it. */
  async refresh({ signal }: RequestOptions = {}): Promise<string> {
    // The path of a link is the picture's own; its query is the signature.
    const path = new URL(this.image_url).pathname;
    const same = (await this.#read(signal)).find(({ image_url }) => new URL(image_url).pathname === path);
    if (!same) {
      throw new JobsGatewayError({ code: "ARTIFACT_GONE", detail: "The job does not have this picture any more." });
    }
    return (this.image_url = same.image_url);
  }

  /**
   * Writes the picture to the file `path`, in Node. The file is there when it is complete, and not before. An expired
   * link is renewed. Throws DownloadError, ConnectionError, and the errors of the file system.
   */
  async download(path: string, { signal }: RequestOptions = {}): Promise<void> {
    const { silenceTimeoutMs } = this.#transport;
    await this.#fetch(signal, (exchange) => saveFile(path, exchange.chunks(silenceTimeoutMs)));
  }

  /** The picture in memory, with its media type. An expired link is renewed. */
  async blob({ signal }: RequestOptions = {}): Promise<Blob> {
    return this.#fetch(signal, async (exchange) => {
      const parts: BlobPart[] = [];
      for await (const chunk of exchange.chunks(this.#transport.silenceTimeoutMs)) parts.push(chunk as BlobPart);
      return new Blob(parts, { type: exchange.response.headers.get("Content-Type") ?? "" });
    });
  }

  async #fetch<Result>(
    signal: AbortSignal | undefined,
    use: (exchange: Exchange) => Promise<Result>,
  ): Promise<Result> {
    const retries = new Retries(this.#transport.retryForMs);
    for (let links = 1; ; ) {
      const url = this.image_url;
      try {
        const exchange = await this.#transport.openLink(url, signal);
        try {
          return await use(exchange);
        } finally {
          exchange.close();
        }
      } catch (error) {
        const isRefused = error instanceof DownloadError && REFUSED_STATUSES.has(error.status);
        if (!isRefused && !isTransient(error)) throw error;
        if (!isRefused) await sleep(retries.delayAfter(error), signal);
        // Also after a lost connection: that is what browsers make of a refusal without CORS headers.
        const isFresh = (await this.refresh({ signal })) !== url;
        if (isRefused && (!isFresh || ++links > MOST_LINKS)) throw error;
      }
    }
  }
}

export type ReadArtifacts = (signal: AbortSignal | undefined) => Promise<ArtifactResponse[]>;
