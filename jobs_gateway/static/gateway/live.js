// The jobs on the page at /: read from the API once, and then followed through the stream of GET /v1/events. Where
// there is no stream, because a proxy holds it back, the page polls. docs/following.md describes both.
"use strict";

const SHOWN = 12; // jobs
const SILENCE_MS = 30_000; // the server writes to a stream at least every 15 seconds
const POLL_WAIT_SECONDS = 20;
const STREAM_RETRY_MS = 60_000; // how long the page polls before it tries the stream again
const ANNOUNCE_MS = 20_000; // between two announcements to screen readers

const live = document.getElementById("live");
const token = live.dataset.token;
delete live.dataset.token; // nothing else on the page needs it
const list = document.getElementById("jobs");
const jobs = new Map(); // what is shown, by public_id
let cursor = ""; // of the feed
let isPaused = false;

// --- The API ------------------------------------------------------------------------------------------------------

class ApiError extends Error {
  constructor(response) {
    super(`status ${response.status}`);
    this.status = response.status;
    this.retryAfterSeconds = Number(response.headers.get("Retry-After"));
  }
}

async function request(path, headers, signal) {
  const response = await fetch(path, { headers: { Authorization: `Bearer ${token}`, ...headers }, signal });
  if (!response.ok) throw new ApiError(response);
  return response;
}

async function get(path, headers, signal) {
  return (await request(path, headers, signal)).json();
}

// The fleet dialect writes an id as a UUID: the same 128 bits as the ULID.
function ulidOf(uuid) {
  const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  let bits = BigInt(`0x${uuid.replaceAll("-", "")}`);
  let text = "";
  for (let place = 0; place < 26; place += 1, bits >>= 5n) text = digits[Number(bits & 31n)] + text;
  return text;
}

// Reads what there is. The cursor comes first: what happens meanwhile is then part of the stream.
async function load() {
  cursor = (await get("/v1/events?after=latest")).cursor;
  const { items } = await get(`/job?limit=${SHOWN}`);
  await Promise.all(items.map((item) => read(ulidOf(item.id))));
  await readFleet();
}

// Reads one job with its events, and shows it.
async function read(id) {
  try {
    const [job, { events }] = await Promise.all([get(`/v1/jobs/${id}`), get(`/v1/jobs/${id}/events?since=0`)]);
    show(job, events);
  } catch (error) {
    if (error.status !== 404) throw error; // it was removed meanwhile
  }
}

// Reads the fleet dialect of the same jobs: their number by status, and what each agent of an operation does.
async function readFleet() {
  const { items, status_counts: counts } = await get(`/job?limit=${SHOWN}`);
  for (const { id, timeline } of items) {
    const shown = jobs.get(ulidOf(id));
    if (shown && timeline.some(({ hostname }) => hostname)) showAgents(shown, timeline);
  }
  const totals = {
    waiting: counts.submitted,
    running: counts.processing,
    succeeded: counts.completed,
    failed: counts.failed + counts.partial_failure,
  };
  const parts = Object.entries(totals).map(([name, number]) => {
    const part = element("div", { className: name });
    part.append(element("dt", { textContent: name }), element("dd", { textContent: number.toLocaleString("en") }));
    return part;
  });
  const box = document.getElementById("totals");
  box.replaceChildren(...parts);
  box.hidden = false;
}

// --- Following ----------------------------------------------------------------------------------------------------

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// While the page is hidden or paused it keeps no connection. It resumes at its cursor, so it misses nothing.
let interruption = new AbortController();
let resume = () => {};
const isIdle = () => isPaused || document.hidden;

function interrupt() {
  if (isIdle()) interruption.abort();
  else resume();
}

async function untilWanted() {
  if (isIdle()) await new Promise((done) => { resume = done; });
  interruption = new AbortController();
}

async function follow() {
  let failures = 0;
  let isLoaded = false;
  let pollUntil = 0; // 0: by the stream
  for (;;) {
    await untilWanted();
    try {
      if (!isLoaded) await load();
      isLoaded = true;
      if (pollUntil) await poll();
      else await stream();
      failures = 0;
      if (pollUntil < Date.now()) pollUntil = 0;
    } catch (error) {
      if (interruption.signal.aborted) continue;
      if (error.status === 401) {
        stop("The token of this page is no longer valid. Reload the page.");
        return;
      }
      // The cursor is of a store that has been replaced.
      if (error.status === 410 || error.status === 422) isLoaded = false;
      failures += 1;
      connection(failures > 1 ? "offline" : "connecting");
      // By turns, because only one of them may work.
      pollUntil = pollUntil ? 0 : Date.now() + STREAM_RETRY_MS;
      await pause((error.retryAfterSeconds || Math.min(2 ** failures, 30) * (0.5 + Math.random() / 2)) * 1000);
    }
  }
}

// Reads the stream until it ends, which is at any time. Throws when it fails or stays silent.
async function stream() {
  const silence = new AbortController();
  let timer;
  const listen = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  const stopping = interruption.signal;
  stopping.throwIfAborted(); // paused or hidden while the page was loaded: there is no event to listen for any more
  const abort = () => silence.abort();
  stopping.addEventListener("abort", abort);
  listen();
  try {
    const headers = { Accept: "text/event-stream", "Last-Event-ID": cursor };
    const response = await request("/v1/events", headers, silence.signal);
    connection("live");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      listen();
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const fields = Object.fromEntries(text.slice(0, end).split("\n").map((line) => line.split(/: ?(.*)/s)));
        if (fields.data) await take(JSON.parse(fields.data));
        if (fields.id) cursor = fields.id;
      }
    }
  } finally {
    clearTimeout(timer);
    stopping.removeEventListener("abort", abort);
  }
}

// Reads one page of the feed, for which the server waits until there is news.
async function poll() {
  const begun = Date.now();
  const path = `/v1/events?after=${encodeURIComponent(cursor)}`;
  const page = await get(path, { Prefer: `wait=${POLL_WAIT_SECONDS}` }, interruption.signal);
  connection("polling");
  for (const each of page.events) await take(each);
  cursor = page.cursor;
  // Where the server had no place for a request that waits, it has answered at once.
  if (!page.events.length && Date.now() - begun < 1000) await pause(2000);
}

async function take({ job, event }) {
  const shown = jobs.get(job.public_id);
  if (shown) show(job, [event]);
  else if (jobs.size < SHOWN || job.created_at > oldest().job.created_at) await read(job.public_id);
  if (job.status === "SUCCESS" || job.status === "FAILURE") {
    ended.set(job.public_id, job.status);
    announceSoon();
  }
  readFleetSoon();
}

const readFleetSoon = soon(readFleet, 500);

// A function that calls ``action`` once, ``ms`` after the first of any number of calls.
function soon(action, ms) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(async () => {
      timer = 0;
      try {
        await action();
      } catch {
        // The next event leads to another attempt.
      }
    }, ms);
  };
}

function stop(text) {
  connection("offline");
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.hidden = false;
  document.getElementById("pause").hidden = true;
}

// --- What is shown ------------------------------------------------------------------------------------------------

const STATUSES = { NOT_STARTED: "Waiting", IN_PROGRESS: "Running", SUCCESS: "Succeeded", FAILURE: "Failed" };
const AGENT_STATES = {
  submitted: "submitted",
  acknowledged: "accepted",
  started: "running",
  completed: "done",
  skipped: "skipped",
  failed: "failed",
};
const OVER = ["completed", "failed", "skipped"];
const STAGES = { queued: 1, stage: 1, succeeded: 1, failed: 1 }; // the events of a workflow
const CONNECTIONS = {
  connecting: "Connecting",
  live: "Live",
  polling: "Live, by polling",
  offline: "No connection",
  paused: "Paused",
};

function connection(state) {
  const box = document.getElementById("connection");
  box.dataset.state = isPaused ? "paused" : state;
  box.textContent = CONNECTIONS[box.dataset.state];
}

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

function sentence(name) {
  const words = name.replaceAll("_", " ").toLowerCase();
  return words[0].toUpperCase() + words.slice(1);
}

const sorted = () => [...jobs.values()].sort((a, b) => (a.key < b.key ? 1 : -1)); // newest first
const oldest = () => sorted().at(-1);

// Adds ``events`` to a job, which becomes a part of the list if it is new.
function show(job, events) {
  const shown = jobs.get(job.public_id) ?? add(job);
  shown.job = job;
  for (const event of events) {
    if (event.seq <= shown.lastSeq) continue;
    shown.lastSeq = event.seq;
    shown.progress = Math.max(shown.progress, Number(event.extra.progress) || 0);
    // Both kinds of jobs have “failed”; an operation begins with another event of an agent.
    shown.isOperation ||= event.event_type !== "failed" && event.event_type in AGENT_STATES;
    if (!shown.isOperation && event.event_type in STAGES) showLine(shown, event.event_type, event.message, event.created_at);
    for (const artifact of event.artifacts) showPicture(shown, artifact);
  }
  showStatus(shown);
}

function add(job) {
  const card = document.getElementById("job").content.firstElementChild.cloneNode(true);
  const part = Object.fromEntries([...card.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  const shown = { job, card, part, key: `${job.created_at} ${job.public_id}`, lastSeq: 0, progress: 0 };
  part.title.textContent = /^[A-Z_]+$/.test(job.job_type) ? sentence(job.job_type) : job.job_type;
  part.title.id = `title-${job.public_id}`;
  card.firstElementChild.setAttribute("aria-labelledby", part.title.id);
  part.id.textContent = job.public_id;
  part.id.href = `${live.dataset.console}${job.public_id}/change/`;
  part.id.setAttribute("aria-label", `Job ${job.public_id} in the console`);
  part.time.dateTime = job.created_at;
  part.time.title = new Date(job.created_at).toLocaleString();
  jobs.set(job.public_id, shown);
  const order = sorted();
  list.insertBefore(card, order[order.indexOf(shown) + 1]?.card ?? null);
  for (const old of order.slice(SHOWN)) {
    old.card.remove();
    jobs.delete(old.job.public_id);
  }
  showAge(shown);
  return shown;
}

function showStatus({ job, card, part, progress }) {
  card.dataset.status = job.status;
  part.status.textContent = STATUSES[job.status] ?? job.status;
  part.progress.hidden = job.status !== "IN_PROGRESS";
  part.progress.value = Math.max(progress, 0.04);
  part.progress.setAttribute("aria-label", `Progress of ${part.title.textContent}`);
}

// A line of the timeline: the message, and the time since the job was opened.
function showLine({ job, part }, className, text, at) {
  const line = element("li", { className });
  const seconds = (Date.parse(at) - Date.parse(job.created_at)) / 1000;
  line.append(
    element("span", { className: "text", textContent: text || className }),
    element("span", { className: "after", textContent: `+${duration(seconds)}` }),
  );
  part.events.append(line);
}

// The agents of an operation by their latest event, and below them the errors.
function showAgents(shown, timeline) {
  const { part } = shown;
  const known = JSON.stringify(timeline);
  if (shown.timeline === known) return;
  shown.timeline = known;
  const agents = new Map();
  part.events.replaceChildren();
  for (const { event, hostname, error, message, timestamp } of timeline) {
    if (hostname === "_api") showLine(shown, event, message, timestamp);
    else if (hostname) agents.set(hostname, event);
    if (error) showLine(shown, event, `${hostname}: ${error}`, timestamp);
  }
  const states = [...agents.values()];
  const over = states.filter((state) => OVER.includes(state)).length;
  if (over || !part.events.childElementCount) {
    const text = `Ended: ${over} of ${states.length} ${states.length === 1 ? "agent" : "agents"}`;
    showLine(shown, "count", text, timeline.at(-1).timestamp);
  }
  const box = element("ul", { className: "agents" });
  for (const [hostname, state] of [...agents].sort()) {
    const agent = element("li");
    agent.dataset.state = state;
    agent.append(element("b", { textContent: hostname }), element("span", { textContent: AGENT_STATES[state] ?? state }));
    box.append(agent);
  }
  part.media.replaceChildren(box);
  shown.progress = states.length ? over / states.length : 0;
  showStatus(shown);
}

function showPicture(shown, artifact) {
  const { part } = shown;
  const link = element("a", { href: artifact.image_url, target: "_blank", rel: "noopener", className: artifact.role });
  const label = artifact.label ?? artifact.kind;
  const image = element("img", { alt: `${sentence(artifact.kind)}, ${label}`, width: 480, height: 640, decoding: "async" });
  image.addEventListener("load", () => link.classList.add("is-loaded"));
  image.addEventListener("error", () => link.replaceChildren(element("span", { textContent: "This picture could not be loaded." })));
  image.src = artifact.image_url;
  link.append(image);
  // A final picture takes the place of the pictures of the stages, which become small.
  let box = part.media.querySelector(`.${artifact.role}s`);
  if (!box) {
    box = element("div", { className: `${artifact.role}s` });
    part.media.append(box);
  }
  box.append(link);
  box.dataset.count = Math.min(box.children.length, 4);
  part.media.classList.toggle("has-final", Boolean(part.media.querySelector(".finals")));
}

function duration(seconds) {
  if (seconds < 10) return `${Math.max(seconds, 0).toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return seconds < 86_400 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

function showAge({ job, part }) {
  const seconds = (Date.now() - Date.parse(job.created_at)) / 1000;
  const text = seconds < 5 ? "just now" : seconds < 10 ? `${Math.floor(seconds)} s ago` : `${duration(seconds)} ago`;
  if (part.time.textContent !== text) part.time.textContent = text;
}

// Screen readers hear of jobs that ended, of several at once and seldom.
const ended = new Map();
const announceSoon = soon(() => {
  const failed = [...ended.values()].filter((status) => status === "FAILURE").length;
  const parts = [];
  if (ended.size > failed) parts.push(`${ended.size - failed} succeeded`);
  if (failed) parts.push(`${failed} failed`);
  document.getElementById("announcement").textContent = `Jobs that ended: ${parts.join(", ")}.`;
  ended.clear();
}, ANNOUNCE_MS);

const button = document.getElementById("pause");
button.addEventListener("click", () => {
  isPaused = !isPaused;
  button.textContent = isPaused ? "Resume" : "Pause";
  connection("connecting");
  interrupt();
});
document.addEventListener("visibilitychange", interrupt);
setInterval(() => jobs.forEach(showAge), 1000);
follow();
