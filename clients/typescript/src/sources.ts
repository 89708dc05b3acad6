import type { EventSourceMessage } from "eventsource-parser";

import { Artifact, type ReadArtifacts } from "./artifact.js";
import type { ApiError } from "./errors.js";
import type { Page, Source } from "./follow.js";
import { type Answer, queryOf, type Transport } from "./transport.js";
import type {
  FeedEvent,
  FeedResponse,
  Job,
  JobDetailResponse,
  JobEvent,
  JobEventResponse,
  JobEventsResponse,
  JobStatus,
} from "./types.js";

const FEED_PAGE = 100;
/** The most jobs whose last event the feed keeps, to drop doubles after a restart. */
const MOST_JOBS = 100_000;

/** The address of a job. */
export function jobPath(id: string): string {
  return `/v1/jobs/${encodeURIComponent(id)}`;
}

/** Whether nothing more happens to a job with this status. */
export function isOver(status: JobStatus | string | null): boolean {
  return status === "SUCCESS" || status === "FAILURE";
}

/** A job, with pictures that can renew their links. */
export function jobOf(transport: Transport, response: JobDetailResponse): Job {
  const { public_id, result, latest_event } = response;
  const readResult: ReadArtifacts = async (signal) =>
    (await transport.json<JobDetailResponse>(jobPath(public_id), { signal })).body.result;
  return {
    ...response,
    result: result.map((each) => new Artifact(each, transport, readResult)),
    latest_event: latest_event && eventOf(transport, public_id, latest_event),
  };
}

function eventOf(transport: Transport, id: string, response: JobEventResponse): JobEvent {
  const { seq } = response;
  const readEvent: ReadArtifacts = async (signal) => {
    const path = `${jobPath(id)}/events?since=${seq - 1}`;
    const { events } = (await transport.json<JobEventsResponse>(path, { signal })).body;
    return events.find((event) => event.seq === seq)?.artifacts ?? [];
  };
  return { ...response, artifacts: response.artifacts.map((each) => new Artifact(each, transport, readEvent)) };
}

/** The events of one job, after `since`. */
export class JobTimeline implements Source<JobEvent> {
  readonly hasPosition = true;

  constructor(
    private readonly transport: Transport,
    private readonly id: string,
    private since: number,
  ) {}

  path(): string {
    return `${jobPath(this.id)}/events?since=${this.since}`;
  }

  takePage({ body, headers }: Answer<JobEventsResponse>): Page<JobEvent> {
    const items = body.events.map((event) => this.#take(event)).filter((event) => event !== undefined);
    return { items, hasMore: false, isOver: items.length === 0 && isOver(headers.get("Job-Status")) };
  }

  takeFrame({ data }: EventSourceMessage): JobEvent | undefined {
    return this.#take(JSON.parse(data));
  }

  recover(): boolean {
    return false;
  }

  #take(event: JobEventResponse): JobEvent | undefined {
    if (event.seq <= this.since) return undefined;
    this.since = event.seq;
    return eventOf(this.transport, this.id, event);
  }
}

/** The events of all jobs. */
export class Feed implements Source<FeedEvent> {
  /** The highest `seq` of each job. A job's events come in ascending order, so no lower one is new. */
  readonly #lastSeqs = new Map<string, number>();

  constructor(
    private readonly transport: Transport,
    private readonly filters: Readonly<Record<string, unknown>>,
    private after: string | undefined,
  ) {}

  get hasPosition(): boolean {
    return this.after !== undefined && this.after !== "latest";
  }

  /** The first page has one event, whose cursor is the page's. All others can then come as a stream. */
  path(): string {
    return `/v1/events${queryOf({ ...this.filters, after: this.after, limit: this.hasPosition ? FEED_PAGE : 1 })}`;
  }

  takePage({ body }: Answer<FeedResponse>): Page<FeedEvent> {
    const before = this.hasPosition ? this.after : undefined;
    this.after = body.cursor;
    const last = body.events.length - 1;
    const items = body.events
      .map((event, index) => this.#take(event, index === last ? body.cursor : (before ?? body.cursor)))
      .filter((event) => event !== undefined);
    return { items, hasMore: body.has_more || last >= 0, isOver: false };
  }

  takeFrame({ id, data }: EventSourceMessage): FeedEvent | undefined {
    if (id !== undefined) this.after = id;
    return this.#take(JSON.parse(data), this.after ?? "");
  }

  /** `410`: a restored store has another event at this position, or none. Begin again, and drop doubles. */
  recover(error: ApiError): boolean {
    if (error.code !== "CURSOR_GONE" || this.after === undefined) return false;
    this.after = undefined;
    return true;
  }

  #take(response: FeedResponse["events"][number], cursor: string): FeedEvent | undefined {
    const { job, event } = response;
    const lastSeq = this.#lastSeqs.get(job.public_id);
    if (lastSeq !== undefined && event.seq <= lastSeq) return undefined;
    // Entered anew, so that the map is in the order of the latest events, and the first is the one to drop.
    this.#lastSeqs.delete(job.public_id);
    this.#lastSeqs.set(job.public_id, event.seq);
    for (const id of this.#lastSeqs.keys()) {
      if (this.#lastSeqs.size <= MOST_JOBS) break;
      this.#lastSeqs.delete(id);
    }
    return { ...response, event: eventOf(this.transport, job.public_id, event), cursor };
  }
}
