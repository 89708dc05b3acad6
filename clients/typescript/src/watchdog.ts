/** The longest that setTimeout takes, 24 days: beyond that it fires at once. */
export const LONGEST_MS = 2 ** 31 - 1;

/** An AbortSignal that follows the caller's, and a timer. Close it, or the caller's signal keeps it. */
export class Watchdog {
  /** Whether the timer, and not the caller, has aborted. */
  isTimedOut = false;
  readonly #controller = new AbortController();
  readonly #callers: AbortSignal | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(callers: AbortSignal | undefined) {
    this.#callers = callers;
    if (callers?.aborted) this.#forward();
    else callers?.addEventListener("abort", this.#forward);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Aborts in `ms` milliseconds, unless it is started again or paused before. */
  start(ms: number): void {
    this.pause();
    this.#timer = setTimeout(() => {
      this.isTimedOut = true;
      this.#controller.abort();
    }, Math.min(ms, LONGEST_MS));
  }

  pause(): void {
    clearTimeout(this.#timer);
  }

  /** Ends what is under way, and lets the caller's signal go. */
  close(): void {
    this.pause();
    this.#callers?.removeEventListener("abort", this.#forward);
    this.#controller.abort();
  }

  /** Rejects when it aborts. */
  aborted(): Promise<never> {
    return new Promise((_, reject) => {
      const abort = () => reject(this.signal.reason);
      if (this.signal.aborted) abort();
      else this.signal.addEventListener("abort", abort, { once: true });
    });
  }

  readonly #forward = () => this.#controller.abort(this.#callers?.reason);
}
