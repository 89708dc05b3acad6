import type { Job, ValidationError } from "./types.js";

interface Details {
  code: string;
  detail: string;
  requestId?: string | undefined;
  cause?: unknown;
}

/** Every error of this library. An aborted call throws the reason of its AbortSignal instead. */
export class JobsGatewayError extends Error {
  override readonly name: string = "JobsGatewayError";
  /** For programs, such as `JOB_NOT_FOUND`. */
  readonly code: string;
  /** For people: what is wrong and what to do. */
  readonly detail: string;
  /** The `X-Request-ID`, which the gateway's log has too. */
  readonly requestId: string | undefined;

  constructor({ code, detail, requestId, cause }: Details) {
    super(`${code}: ${detail}${requestId ? ` (request ${requestId})` : ""}`, cause === undefined ? {} : { cause });
    this.code = code;
    this.detail = detail;
    this.requestId = requestId;
  }
}

/** The gateway, or a proxy before it, answered with an error. */
export class ApiError extends JobsGatewayError {
  override readonly name = "ApiError";
  readonly status: number;
  /** What `Retry-After` says, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** With status 422: every invalid parameter. */
  readonly problems: readonly ValidationError[];

  constructor(
    details: Details & { status: number; retryAfterMs?: number | undefined; problems?: readonly ValidationError[] },
  ) {
    super(details);
    this.status = details.status;
    this.retryAfterMs = details.retryAfterMs;
    this.problems = details.problems ?? [];
  }
}

/** There was no complete answer: `CONNECTION_FAILED`, or `TIMED_OUT`. */
export class ConnectionError extends JobsGatewayError {
  override readonly name = "ConnectionError";
}

/** `jobs.wait` reached its timeout. `job` is the last state; undefined if the gateway has not answered at all. */
export class JobTimeoutError extends JobsGatewayError {
  override readonly name = "JobTimeoutError";
  readonly job: Job | undefined;

  constructor(detail: string, job: Job | undefined, cause: unknown) {
    super({ code: "JOB_TIMED_OUT", detail, cause });
    this.job = job;
  }
}

/** The artifact store refused a picture, also with a fresh link. */
export class DownloadError extends JobsGatewayError {
  override readonly name = "DownloadError";
  readonly status: number;
  readonly retryAfterMs: number | undefined;

  constructor(status: number, detail: string, retryAfterMs?: number) {
    super({ code: "DOWNLOAD_REFUSED", detail });
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}
