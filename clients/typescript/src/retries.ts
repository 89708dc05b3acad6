import { ApiError, ConnectionError, DownloadError } from "./errors.js";
import { LONGEST_MS } from "./watchdog.js";

const FIRST_BACKOFF_MS = 500;
const LONGEST_BACKOFF_MS = 30_000;
/** A rate limit, an overload, and what proxies answer while the gateway restarts. */
const TRANSIENT_STATUSES = new Set([429, 502, 503, 504]);

/** Whether the same request may succeed later. It is safe to repeat: the API only reads. */
export function isTransient(error: unknown): boolean {
  if (error instanceof ApiError || error instanceof DownloadError) return TRANSIENT_STATUSES.has(error.status);
  return error instanceof ConnectionError;
}

/** The failures in a row of one request, or of one follower. */
export class Retries {
  lastError: unknown;
  #failures = 0;
  #firstFailureAt = 0;

  /** Failures are repeated for so many milliseconds. */
  constructor(private readonly forMs: number) {}

  reset(): void {
    this.lastError = undefined;
    this.#failures = 0;
  }

  /**
   * The milliseconds to wait before the next attempt: what `Retry-After` says, and exponential back-off with full
   * jitter on top. Throws `error` where another attempt is useless, or would be too late.
   */
  delayAfter(error: unknown): number {
    if (!isTransient(error)) throw error;
    if (this.#failures === 0) this.#firstFailureAt = Date.now();
    this.lastError = error;
    const longest = Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** this.#failures++);
    const delay = (retryAfterOf(error) ?? 0) + Math.random() * longest;
    if (Date.now() + delay > this.#firstFailureAt + this.forMs) throw error;
    return delay;
  }
}

/** Throws the signal's reason when it is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, Math.min(ms, LONGEST_MS));
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/** `Retry-After` in milliseconds: a number of seconds, or a date, as some proxies write it. */
export function retryAfterMs(headers: Headers): number | undefined {
  const value = headers.get("Retry-After");
  if (value === null) return undefined;
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  // Only what HTTP calls a date: Date.parse takes "5, 5" for one of 2001.
  const ms = /^[A-Z][a-z]+, .* GMT$/.test(value) ? Date.parse(value) - Date.now() : NaN;
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

function retryAfterOf(error: unknown): number | undefined {
  return error instanceof ApiError || error instanceof DownloadError ? error.retryAfterMs : undefined;
}
