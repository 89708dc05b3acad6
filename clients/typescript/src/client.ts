import { JobTimeoutError } from "./errors.js";
import { follow, WAIT_SECONDS } from "./follow.js";
import { Listing } from "./listing.js";
import { Retries, sleep } from "./retries.js";
import { Feed, isOver, jobOf, jobPath, JobTimeline } from "./sources.js";
import { type Answer, type JobsGatewayOptions, queryOf, Transport } from "./transport.js";
import type {
  FeedEvent,
  FeedOptions,
  FleetJob,
  FleetJobPage,
  Job,
  JobDetailResponse,
  JobEvent,
  JobEventsOptions,
  JobPage,
  JobSummary,
  ListFleetJobsOptions,
  ListJobsOptions,
  RequestOptions,
  WaitOptions,
} from "./types.js";
import { Watchdog } from "./watchdog.js";

const PAGE = 100;
/** What `jobs.wait` keeps of its timeout for the last request. */
const LAST_REQUEST_MS = 1000;

/** A gateway, as the tenant of a token sees it. */
export class JobsGateway {
  readonly jobs: Jobs;
  readonly fleet: Fleet;
  readonly #transport: Transport;

  /** Throws JobsGatewayError without a token, TypeError for a `baseUrl` that is no URL. No request is made. */
  constructor(options: JobsGatewayOptions) {
    this.#transport = new Transport(options);
    this.jobs = new Jobs(this.#transport);
    this.fleet = new Fleet(this.#transport);
  }

  /**
   * Follows the feed: every public event of all jobs, once and in order. It has no end: leave the loop, or abort.
   *
   * `after` is the `cursor` of the last event that was handled, `"latest"` for events from now on; without it the feed
   * begins with the oldest. Where the store was restored from a backup and has lost that event, the feed begins again;
   * of what comes again, the events of this call are left out. Drop others by their `id`.
   */
  events({ after, signal, ...filters }: FeedOptions = {}): AsyncGenerator<FeedEvent, void, void> {
    return follow(this.#transport, new Feed(this.#transport, filters, after), signal);
  }
}

/** The workflow jobs of a tenant, under `/v1`. */
export class Jobs {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The headers of all workflow jobs, the newest first. Operations are in `fleet.list`. */
  list(options: ListJobsOptions = {}): Listing<JobPage, JobSummary> {
    return new Listing(() => this.#pages(options), itemsOfJobs);
  }

  /** A job of any type. Throws ApiError with the code JOB_NOT_FOUND. */
  async get(id: string, { signal }: RequestOptions = {}): Promise<Job> {
    const { body } = await this.#transport.json<JobDetailResponse>(jobPath(id), { signal });
    return jobOf(this.#transport, body);
  }

  /**
   * Follows a job: its public events after the number `since` (0 by default), once and in order, until it is over. For
   * a job that is over these are the events that it has.
   */
  events(id: string, { since = 0, signal }: JobEventsOptions = {}): AsyncGenerator<JobEvent, void, void> {
    return follow(this.#transport, new JobTimeline(this.#transport, id, since), signal);
  }

  /**
   * The job once it is over: its status is `SUCCESS` or `FAILURE`. Throws JobTimeoutError, with its last state, when it
   * is not over after `timeout` milliseconds, and ApiError.
   */
  async wait(id: string, { timeout = 600_000, signal }: WaitOptions = {}): Promise<Job> {
    const timer = new Watchdog(signal);
    timer.start(timeout);
    const endsAt = Date.now() + timeout;
    const retries = new Retries(Infinity);
    let job: Job | undefined;
    try {
      for (;;) {
        // Half of the time that is left: an answer that is late has the last state too.
        const seconds = Math.max(0, Math.floor((endsAt - Date.now()) / 2000));
        const options = { waitSeconds: Math.min(WAIT_SECONDS, seconds), signal: timer.signal, retries };
        const { body, pauseMs } = await this.#transport.json<JobDetailResponse>(jobPath(id), options);
        job = jobOf(this.#transport, body);
        if (isOver(job.status)) return job;
        retries.reset();
        const leftMs = endsAt - Date.now() - LAST_REQUEST_MS;
        await sleep(leftMs > 0 ? Math.min(pauseMs, leftMs) : pauseMs, timer.signal);
      }
    } catch (error) {
      if (!timer.isTimedOut) throw error;
      const state = job ? `is ${job.status}` : "is not known";
      throw new JobTimeoutError(`Job ${id} ${state} after ${timeout} ms.`, job, retries.lastError);
    } finally {
      timer.close();
    }
  }

  async *#pages({ signal, ...query }: ListJobsOptions): AsyncGenerator<JobPage, void, void> {
    let search: string | undefined = queryOf({ limit: PAGE, ...query });
    while (search !== undefined) {
      const page: Answer<JobPage> = await this.#transport.json<JobPage>(`/v1/jobs${search}`, { signal });
      yield page.body;
      search = nextSearch(page.headers);
    }
  }
}

/** All jobs of a tenant with their agents and counts, under `/job`. */
export class Fleet {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Jobs of every type, the newest first; `pages()` has their counts. Each comes once, and none is left out when jobs
   * enter or leave the list meanwhile.
   */
  list(options: ListFleetJobsOptions = {}): Listing<FleetJobPage, FleetJob> {
    return new Listing(() => this.#pages(options), itemsOfFleet);
  }

  async *#pages({ signal, ...query }: ListFleetJobsOptions): AsyncGenerator<FleetJobPage, void, void> {
    const limit = query.limit ?? PAGE;
    let offset = query.offset ?? 0;
    let last: FleetJob | undefined;
    for (;;) {
      // A page begins with the last job of the one before.
      const asked = last === undefined ? limit : Math.min(limit + 1, PAGE);
      const path = `/job${queryOf({ ...query, limit: asked, offset })}`;
      const { body } = await this.#transport.json<FleetJobPage>(path, { signal });
      const [first] = body.items;
      if (last !== undefined && offset > 0 && (first === undefined || isOlder(first, last))) {
        // Jobs have left the list, and some came forward to a page that was read.
        offset = Math.max(0, offset - limit);
        continue;
      }
      // New jobs move the others back: what is not older was there already.
      const items = body.items.filter((job) => last === undefined || isOlder(job, last));
      yield { ...body, items };
      if (body.items.length < asked) return;
      last = items.at(-1) ?? last;
      offset += body.items.length - 1;
    }
  }
}

async function* itemsOfJobs(pages: AsyncIterable<JobPage>): AsyncGenerator<JobSummary, void, void> {
  for await (const page of pages) yield* page.jobs;
}

async function* itemsOfFleet(pages: AsyncIterable<FleetJobPage>): AsyncGenerator<FleetJob, void, void> {
  for await (const page of pages) yield* page.items;
}

/** Whether a job comes after another one. Without the Z the order of the texts is that of the times. */
function isOlder(job: FleetJob, than: FleetJob): boolean {
  const [created, createdThan] = [job.created, than.created].map((time) => time.replace(/Z$/, ""));
  return created === createdThan ? job.id < than.id : created! < createdThan!;
}

/** The query of the next page. Its host is not used: behind a proxy it may be another one, which gets no token. */
function nextSearch(headers: Headers): string | undefined {
  const link = /<([^>]*)>\s*;[^,]*\brel="?next"?/.exec(headers.get("Link") ?? "")?.[1];
  return link === undefined ? undefined : new URL(link, "http://gateway").search;
}
