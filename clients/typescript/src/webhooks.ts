import { subtle } from "#platform";

import { JobsGatewayError } from "./errors.js";
import type { ArtifactResponse, FeedEventResponse } from "./types.js";

/** What a verified webhook says. */
export interface Webhook {
  /** The event's `id`, the same at each attempt and in the feed: drop a webhook whose id you have already. */
  id: string;
  /** `job.<event_type>`, or `webhook.test`. */
  type: string;
  /** When the event happened, RFC 3339. */
  timestamp: string;
  /** Undefined for a test. */
  event: FeedEventResponse | undefined;
  /** With `job.succeeded`: the job's final pictures. */
  result: ArtifactResponse[] | undefined;
}

export interface UnwrapOptions {
  /** How far the time of the attempt may be from this machine's, in milliseconds; 5 minutes by default. */
  tolerance?: number | undefined;
}

/** The request is not of the gateway, or it is too old: answer it with 401. */
export class WebhookVerificationError extends JobsGatewayError {
  override readonly name = "WebhookVerificationError";

  constructor(detail: string) {
    super({ code: "WEBHOOK_NOT_VERIFIED", detail });
  }
}

type ReceivedHeaders = Headers | Record<string, string | string[] | undefined>;

/**
 * Verifies a request by Standard Webhooks 1.0, and reads it. `body` is the body as it came, before anything parsed it;
 * `headers` are those of a `Request` or of Node's `IncomingMessage`; `secret` is what `create_webhook` printed
 * (`whsec_…`). Throws WebhookVerificationError.
 */
export async function unwrap(
  body: string | Uint8Array,
  headers: ReceivedHeaders,
  secret: string,
  { tolerance = 300_000 }: UnwrapOptions = {},
): Promise<Webhook> {
  const id = header(headers, "webhook-id");
  const timestamp = header(headers, "webhook-timestamp");
  const seconds = /^\d{1,12}$/.test(timestamp) ? Number(timestamp) : NaN;
  if (!(Math.abs(Date.now() - seconds * 1000) <= tolerance)) {
    throw new WebhookVerificationError("The time of the request is too far from the time of this machine.");
  }
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const signed = joined(new TextEncoder().encode(`${id}.${timestamp}.`), bytes);
  const key = await subtle.importKey("raw", keyOf(secret), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
  for (const signature of header(headers, "webhook-signature").split(" ")) {
    const [version, text] = signature.split(",");
    const given = version === "v1" && text ? decoded(text) : undefined;
    // It compares in constant time.
    if (given && (await subtle.verify("HMAC", key, given, signed))) return read(id, bytes);
  }
  throw new WebhookVerificationError("No signature is one of this secret.");
}

function read(id: string, bytes: Uint8Array): Webhook {
  const { type, timestamp, data } = JSON.parse(new TextDecoder().decode(bytes));
  return { id, type, timestamp, event: "event" in data ? data : undefined, result: data.result };
}

function header(headers: ReceivedHeaders, name: string): string {
  const value = headers instanceof Headers ? headers.get(name) : headers[name];
  if (typeof value !== "string") throw new WebhookVerificationError(`The request has no ${name}.`);
  return value;
}

function keyOf(secret: string): Uint8Array<ArrayBuffer> {
  const key = decoded(secret.replace(/^whsec_/, ""));
  if (!key?.length) throw new TypeError("A secret is whsec_ and base64.");
  return key;
}

function decoded(base64: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

function joined(first: Uint8Array, second: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
