import { createParser, type EventSourceMessage } from "eventsource-parser";

import { ApiError, ConnectionError } from "./errors.js";
import { isTransient, Retries, sleep } from "./retries.js";
import type { Answer, Exchange, Transport } from "./transport.js";

/** Shorter than the 60 seconds after which many proxies close a quiet connection. */
export const WAIT_SECONDS = 25;
/** How long no stream is tried after one that did not work. */
const STREAM_PAUSE_MS = 300_000;
/** After so many streams in a row that ended soon and without an event, streams do not work. */
const FRUITLESS_STREAMS = 3;
/** What `retry:` says unless the stream says it. */
const RECONNECT_MS = 2000;

export interface Page<Item> {
  items: Item[];
  /** Whether the same request finds more at once. */
  hasMore: boolean;
  /** Whether nothing follows, now or later. */
  isOver: boolean;
}

/** What is followed, and how far. */
export interface Source<Item> {
  /** Whether a stream can continue from here. Before that, pages are read. */
  readonly hasPosition: boolean;
  /** The address of what follows. */
  path(): string;
  /** What a page has beyond the position, which moves to the page's end. */
  takePage(answer: Answer<unknown>): Page<Item>;
  /** The item of a frame and the position behind it; undefined for an item from before the position. */
  takeFrame(frame: EventSourceMessage): Item | undefined;
  /** After an error, whether the position was set back so that following can go on. */
  recover(error: ApiError): boolean;
}

/**
 * Every item of `source`, once and in order, until it is over.
 *
 * It reads the stream. Where streams do not work (the tenant has too many, a proxy holds them back or removes the
 * header that asks for them) it asks for pages with `Prefer: wait`, and where that is not honoured it polls as slowly
 * as `Retry-After` says; after five minutes it tries a stream again. All three continue behind the last item, so that
 * a change from one to another, like any drop, loses and repeats nothing.
 *
 * Throws ApiError where repeating is useless, and the last failure after `followRetryForMs` without any success.
 */
export async function* follow<Item>(
  transport: Transport,
  source: Source<Item>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Item, void, void> {
  const retries = new Retries(transport.followRetryForMs);
  const streams = new StreamChoice(transport.silenceTimeoutMs);
  for (;;) {
    const isStream = source.hasPosition && streams.areTried();
    try {
      const isOver = yield* isStream
        ? readStream(transport, source, streams, retries, signal)
        : readPage(transport, source, retries, signal);
      if (isOver) return;
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (error instanceof ApiError && source.recover(error)) continue;
      if (!isTransient(error)) throw error;
      // Another way is there at once: there is nothing to wait for.
      if (isStream && streams.isBlockedBy(error)) continue;
      await sleep(retries.delayAfter(error), signal);
    }
  }
}

/** Reads a stream to its end; returns whether the source is over. */
async function* readStream<Item>(
  transport: Transport,
  source: Source<Item>,
  streams: StreamChoice,
  retries: Retries,
  signal: AbortSignal | undefined,
): AsyncGenerator<Item, boolean, void> {
  const timeoutMs = transport.streamStartTimeoutMs;
  const exchange = await transport.open(source.path(), { accept: "text/event-stream", signal, timeoutMs });
  retries.reset();
  const { status, headers } = exchange.response;
  if (status === 204) {
    exchange.close();
    return true;
  }
  if (!headers.get("Content-Type")?.startsWith("text/event-stream")) {
    exchange.close();
    streams.pause(); // a proxy has removed what asks for a stream
    return false;
  }
  let reconnectMs = RECONNECT_MS;
  const onRetry = (ms: number) => (reconnectMs = ms);
  const attempt = streams.begin();
  try {
    for await (const frame of framesOf(exchange, transport.silenceTimeoutMs, onRetry)) {
      if (frame.event === "end") return true;
      const item = source.takeFrame(frame);
      if (item === undefined) continue;
      attempt.hasItems = true;
      yield item;
    }
  } finally {
    streams.finish(attempt);
  }
  await sleep(Math.random() * reconnectMs, signal); // all streams of a server that reloads end at once
  return false;
}

/** Asks for one page; returns whether the source is over. */
async function* readPage<Item>(
  transport: Transport,
  source: Source<Item>,
  retries: Retries,
  signal: AbortSignal | undefined,
): AsyncGenerator<Item, boolean, void> {
  const { hasPosition } = source;
  const waitSeconds = hasPosition ? WAIT_SECONDS : 0;
  const answer = await transport.jsonOnce(source.path(), { signal, waitSeconds });
  retries.reset();
  const page = source.takePage(answer);
  yield* page.items;
  if (hasPosition && page.items.length === 0 && !page.hasMore && !page.isOver) await sleep(answer.pauseMs, signal);
  return page.isOver;
}

async function* framesOf(
  exchange: Exchange,
  silenceMs: number,
  onRetry: (ms: number) => void,
): AsyncGenerator<EventSourceMessage, void, void> {
  const decoder = new TextDecoder();
  const frames: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (frame) => frames.push(frame), onRetry });
  for await (const chunk of exchange.chunks(silenceMs)) {
    parser.feed(decoder.decode(chunk, { stream: true }));
    yield* frames.splice(0);
  }
}

interface StreamAttempt {
  beganAt: number;
  hasItems: boolean;
}

/** Whether the next attempt is a stream, by how the last ones went. */
class StreamChoice {
  #pausedUntil = 0;
  #fruitless = 0;

  /** A stream that lasts `longMs` works, even if nothing has happened. */
  constructor(private readonly longMs: number) {}

  areTried(): boolean {
    return Date.now() >= this.#pausedUntil;
  }

  pause(): void {
    this.#fruitless = 0;
    this.#pausedUntil = Date.now() + STREAM_PAUSE_MS;
  }

  begin(): StreamAttempt {
    return { beganAt: Date.now(), hasItems: false };
  }

  finish({ beganAt, hasItems }: StreamAttempt): void {
    if (hasItems || Date.now() - beganAt >= this.longMs) this.#fruitless = 0;
    else if (++this.#fruitless >= FRUITLESS_STREAMS) this.pause();
  }

  /** Pauses streams where they are refused or silent. Returns whether a page can be asked for at once. */
  isBlockedBy(error: unknown): boolean {
    if (error instanceof ApiError) {
      this.pause();
      return error.code === "TOO_MANY_STREAMS";
    }
    if (!(error instanceof ConnectionError) || error.code !== "TIMED_OUT") return false;
    this.pause();
    return true;
  }
}
