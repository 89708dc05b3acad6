import { ApiError, ConnectionError, DownloadError, JobsGatewayError } from "./errors.js";
import { Retries, retryAfterMs, sleep } from "./retries.js";
import type { ValidationError } from "./types.js";
import { Watchdog } from "./watchdog.js";

/** Where an answer does not say when to ask again. */
const POLL_MS = 5000;
/** Between two requests that find nothing new, whatever the first one's answer says. */
const SHORTEST_PAUSE_MS = 1000;

export interface JobsGatewayOptions {
  /** Such as `https://jobs.example.com`. */
  baseUrl: string;
  /**
   * A gateway token or a Shopify session token, or a function that returns one and is called for each request: session
   * tokens expire within a minute. Without it, `process.env.JOBS_GATEWAY_TOKEN` where there is a process.
   */
  token?: string | (() => string | Promise<string>);
  /** Used instead of the global `fetch`. */
  fetch?: typeof fetch;
  /** A request without a complete answer fails after this time; 30 seconds by default. */
  requestTimeoutMs?: number;
  /** A stream that sends nothing at its start is taken for one that a proxy holds back; 10 seconds by default. */
  streamStartTimeoutMs?: number;
  /** A stream or a download that sends nothing for so long is dead; 30 seconds by default. */
  silenceTimeoutMs?: number;
  /** How long a request that fails with 429, 502, 503, 504 or a connection error is repeated; a minute by default. */
  retryForMs?: number;
  /** How long a follower goes on while all its requests fail; 10 minutes by default. */
  followRetryForMs?: number;
}

interface SendOptions {
  signal?: AbortSignal | undefined;
  accept?: string;
  /** Ask for an answer when there is news, or after so many seconds. */
  waitSeconds?: number;
  /** Until the answer's first byte; of a JSON answer, until its last. */
  timeoutMs?: number;
}

/** A JSON answer. */
export interface Answer<Body> {
  body: Body;
  headers: Headers;
  /** How long to wait before the same request, where this answer has no news. */
  pauseMs: number;
}

/** The query string of an address. Arrays are repeated, undefined values left out. */
export function queryOf(parameters: Readonly<Record<string, unknown>>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined) query.append(name, String(each));
    }
  }
  return `?${query}`.replace(/^\?$/, "");
}

/** Requests to one gateway, and to its artifact store. */
export class Transport {
  readonly requestTimeoutMs: number;
  readonly streamStartTimeoutMs: number;
  readonly silenceTimeoutMs: number;
  readonly retryForMs: number;
  readonly followRetryForMs: number;
  readonly #baseUrl: string;
  readonly #token: () => string | Promise<string>;
  readonly #fetch: typeof fetch;

  constructor(options: JobsGatewayOptions) {
    const url = new URL(options.baseUrl);
    if (!/^https?:$/.test(url.protocol)) throw new TypeError("baseUrl must begin with https:// or http://.");
    if (url.username || url.password || url.search || url.hash) {
      throw new TypeError("baseUrl has neither a user name nor a query: the token says who asks.");
    }
    this.#baseUrl = url.href.replace(/\/+$/, "");
    const token = options.token ?? environmentToken();
    this.#token = typeof token === "function" ? token : () => token;
    this.#fetch = options.fetch ?? ((...request) => fetch(...request));
    this.requestTimeoutMs = options.requestTimeoutMs ?? 30_000;
    this.streamStartTimeoutMs = options.streamStartTimeoutMs ?? 10_000;
    this.silenceTimeoutMs = options.silenceTimeoutMs ?? 30_000;
    this.retryForMs = options.retryForMs ?? 60_000;
    this.followRetryForMs = options.followRetryForMs ?? 600_000;
  }

  /** A JSON answer; transient failures are repeated. Throws ApiError, ConnectionError, the signal's reason. */
  async json<Body>(path: string, options: SendOptions & { retries?: Retries } = {}): Promise<Answer<Body>> {
    const retries = options.retries ?? new Retries(this.retryForMs);
    for (;;) {
      try {
        return await this.jsonOnce<Body>(path, options);
      } catch (error) {
        await sleep(retries.delayAfter(error), options.signal);
      }
    }
  }

  /** As {@link json}, in one attempt. */
  async jsonOnce<Body>(path: string, options: SendOptions = {}): Promise<Answer<Body>> {
    const beganAt = Date.now();
    const { waitSeconds = 0 } = options;
    const timeoutMs = this.requestTimeoutMs + waitSeconds * 1000;
    const exchange = await this.open(path, { ...options, accept: "application/json", timeoutMs });
    const body = await exchange.json<Body>();
    const { headers } = exchange.response;
    const pauseMs = headers.has("Preference-Applied")
      ? Math.max(0, beganAt + SHORTEST_PAUSE_MS - Date.now())
      : (retryAfterMs(headers) ?? POLL_MS);
    return { body, headers, pauseMs };
  }

  /** An answer of the API whose body is not read yet. */
  async open(path: string, options: SendOptions): Promise<Exchange> {
    // Sent, and not only received, so that the log has the id of a request whose answer was lost.
    const requestId = Math.random().toString(36).slice(2).padEnd(12, "0");
    const headers = new Headers({ Accept: options.accept ?? "application/json", "X-Request-ID": requestId });
    headers.set("Authorization", `Bearer ${await this.#askToken(options, requestId)}`);
    if (options.waitSeconds) headers.set("Prefer", `wait=${options.waitSeconds}`);
    // "manual": the API never redirects, and the token must not follow a redirect to another host.
    const init: RequestInit = { headers, redirect: "manual", cache: "no-store" };
    const exchange = await this.#send(this.#baseUrl + path, init, options, requestId);
    if (!exchange.response.ok) throw await exchange.apiError();
    return exchange;
  }

  /** The answer of the artifact store to a link. The link is the credential: nothing else is sent. */
  async openLink(url: string, signal: AbortSignal | undefined): Promise<Exchange> {
    // Not from the browser's cache: what an <img> has put there may lack the header that lets a page read it.
    const init: RequestInit = { credentials: "omit", referrerPolicy: "no-referrer", cache: "no-store" };
    const exchange = await this.#send(url, init, { signal }, undefined);
    if (!exchange.response.ok) throw exchange.downloadError();
    return exchange;
  }

  /** The token, which a function of the caller's may take long to get. */
  async #askToken(options: SendOptions, requestId: string): Promise<string> {
    const watchdog = new Watchdog(options.signal);
    watchdog.start(options.timeoutMs ?? this.requestTimeoutMs);
    try {
      return checkedToken(await Promise.race([this.#token(), watchdog.aborted()]));
    } catch (error) {
      throw watchdog.signal.aborted ? failure(error, watchdog, options.signal, requestId) : error;
    } finally {
      watchdog.close();
    }
  }

  async #send(url: string, init: RequestInit, options: SendOptions, requestId: string | undefined): Promise<Exchange> {
    const watchdog = new Watchdog(options.signal);
    watchdog.start(options.timeoutMs ?? this.requestTimeoutMs);
    try {
      const response = await this.#fetch(url, { ...init, signal: watchdog.signal });
      return new Exchange(response, response.headers.get("X-Request-ID") ?? requestId, watchdog, options.signal);
    } catch (error) {
      watchdog.close();
      throw failure(error, watchdog, options.signal, requestId);
    }
  }
}

/** A response, and the watchdog over its body. Read the body to its end, or close it. */
export class Exchange {
  constructor(
    readonly response: Response,
    readonly requestId: string | undefined,
    private readonly watchdog: Watchdog,
    private readonly signal: AbortSignal | undefined,
  ) {}

  close(): void {
    this.watchdog.close();
  }

  async json<Body>(): Promise<Body> {
    const text = await this.#text();
    try {
      return JSON.parse(text);
    } catch (cause) {
      const detail = "The answer is not JSON. Is baseUrl the address of a Jobs Gateway?";
      const { status } = this.response;
      throw new ApiError({ status, code: "INVALID_RESPONSE", detail, requestId: this.requestId, cause });
    }
  }

  /** The body in pieces. `silenceMs` is the longest time between two of them. */
  async *chunks(silenceMs: number): AsyncGenerator<Uint8Array, void, void> {
    try {
      const reader = this.response.body?.getReader();
      for (;;) {
        const piece = await reader?.read();
        this.watchdog.pause(); // while the caller works: then the silence is not the server's
        if (!piece?.value) return;
        yield piece.value;
        this.watchdog.start(silenceMs);
      }
    } catch (error) {
      throw failure(error, this.watchdog, this.signal, this.requestId);
    } finally {
      this.close();
    }
  }

  async apiError(): Promise<ApiError> {
    const { status, headers } = this.response;
    const { requestId } = this;
    if (this.response.type === "opaqueredirect" || (status >= 300 && status < 400)) {
      this.close();
      const detail = "The gateway's address redirects to another one. Use that one as baseUrl.";
      return new ApiError({ status, code: "REDIRECTED", detail, requestId });
    }
    const { code, detail, problems } = describe(status, await this.#text());
    return new ApiError({ status, code, detail, problems, requestId, retryAfterMs: retryAfterMs(headers) });
  }

  downloadError(): DownloadError {
    this.close();
    const { status, headers } = this.response;
    return new DownloadError(status, `The artifact store answered with ${status}.`, retryAfterMs(headers));
  }

  async #text(): Promise<string> {
    try {
      return await this.response.text();
    } catch (error) {
      throw failure(error, this.watchdog, this.signal, this.requestId);
    } finally {
      this.close();
    }
  }
}

/** The error of an API answer in either dialect; of a proxy's page, its status. */
function describe(status: number, text: string): { code: string; detail: string; problems: ValidationError[] } {
  let body: { code?: unknown; detail?: unknown; error?: unknown } = {};
  try {
    body = Object(JSON.parse(text));
  } catch {
    // a proxy's HTML
  }
  const problems: ValidationError[] = Array.isArray(body.detail) ? body.detail.filter((each) => each?.loc?.join) : [];
  const code = problems.length > 0 ? "INVALID_PARAMETERS" : `HTTP_${status}`;
  const detail = problems.map(({ loc, msg }) => `${loc.join(".")}: ${msg}`).join("; ");
  return {
    code: typeof body.code === "string" ? body.code : code,
    detail: detail || String(body.detail ?? body.error ?? `The answer has status ${status}.`),
    problems,
  };
}

/** What to throw where a fetch, or the reading of its body, has failed. */
function failure(error: unknown, watchdog: Watchdog, signal: AbortSignal | undefined, requestId?: string): unknown {
  if (signal?.aborted) return signal.reason;
  if (error instanceof JobsGatewayError) return error;
  if (watchdog.isTimedOut) {
    return new ConnectionError({ code: "TIMED_OUT", detail: "The server did not answer in time.", requestId });
  }
  const detail = "The connection failed, or was closed before the answer was complete.";
  return new ConnectionError({ code: "CONNECTION_FAILED", detail, requestId, cause: error });
}

function environmentToken(): string {
  const token = typeof process === "undefined" ? undefined : process.env?.["JOBS_GATEWAY_TOKEN"];
  if (token) return token;
  const detail = "There is no token: give one to JobsGateway, or set JOBS_GATEWAY_TOKEN.";
  throw new JobsGatewayError({ code: "NO_TOKEN", detail });
}

/** Throws for what no header can carry; an error of fetch would show the token. */
function checkedToken(token: string): string {
  if (/^[\x21-\x7e]+$/.test(token)) return token;
  const detail = "The token is empty, or has a character that no token has, such as a line break.";
  throw new JobsGatewayError({ code: "INVALID_TOKEN", detail });
}
