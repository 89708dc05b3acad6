// The script of the support console: copy buttons, tenant suggestions, live updates, images, shortcuts.
"use strict";

const status = () => document.getElementById("live-status");

async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  // The Clipboard API needs HTTPS. This works over HTTP too.
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "visually-hidden" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-of]");
  if (!button) return;
  const label = button.textContent;
  await copy(button.dataset.copy ?? document.getElementById(button.dataset.copyOf).textContent);
  button.textContent = "Copied";
  button.classList.add("is-done");
  setTimeout(() => {
    button.textContent = label;
    button.classList.remove("is-done");
  }, 1500);
});

function showAsMissing(image) {
  const missing = Object.assign(document.createElement("span"), { className: "file missing" });
  missing.textContent = "This image could not be loaded from the artifact store.";
  image.replaceWith(missing);
}

// Error events of images do not bubble, so this listens in the capture phase.
document.addEventListener(
  "error",
  (event) => {
    if (event.target.matches?.(".artifact img")) showAsMissing(event.target);
  },
  true,
);

// Those that failed before this script ran.
for (const image of document.querySelectorAll(".artifact img")) {
  if (image.complete && !image.naturalWidth) showAsMissing(image);
}

// Single keys get in the way of speech input, so they can be switched off. The browser keeps the choice.
const switchOfShortcuts = document.getElementById("shortcuts");
let shortcuts = kept("console.shortcuts") !== "off";

// A browser may refuse to keep anything.
function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // The choice is that of this page only.
  }
}

function showShortcuts() {
  for (const each of document.querySelectorAll("[data-key]")) {
    if (shortcuts) each.setAttribute("aria-keyshortcuts", each.dataset.key);
    else each.removeAttribute("aria-keyshortcuts");
  }
  document.documentElement.classList.toggle("has-shortcuts", shortcuts);
  if (!switchOfShortcuts) return;
  switchOfShortcuts.hidden = false;
  switchOfShortcuts.setAttribute("aria-pressed", String(shortcuts));
}

switchOfShortcuts?.addEventListener("click", () => {
  shortcuts = !shortcuts;
  keep("console.shortcuts", shortcuts ? "on" : "off");
  showShortcuts();
});
showShortcuts();

document.addEventListener("keydown", (event) => {
  if (!shortcuts || viewer?.open || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  if (event.key === "/") {
    const find = document.getElementById("find");
    if (find) {
      event.preventDefault();
      find.focus();
    }
  }
  if (event.key === "p") document.querySelector("a[rel=prev]")?.click();
  if (event.key === "n") document.querySelector("a[rel=next]")?.click();
});

// What is pasted outside a field is for the search.
document.addEventListener("paste", (event) => {
  const find = document.getElementById("find");
  const text = event.clipboardData.getData("text").trim();
  if (!find || !text || event.target.closest("input, textarea, select")) return;
  event.preventDefault();
  find.value = text.replace(/\s+/g, " ");
  find.focus();
});

// Images open in a dialog: the arrow keys go to the one before and after, Escape closes it.
const viewer = document.getElementById("viewer");
let viewed = 0;

// The gallery has each image once; the timeline has them again.
const images = () => [...document.querySelectorAll(".artifacts:not(.artifacts-small) a[data-view]")];

function view(index) {
  const all = images();
  viewed = (index + all.length) % all.length;
  const { href, dataset } = all[viewed];
  const image = document.getElementById("viewer-image");
  const facts = document.getElementById("viewer-facts");
  const describe = (size) => {
    facts.textContent = [`${viewed + 1} of ${all.length}`, dataset.kind, dataset.role, size].filter(Boolean).join(" · ");
  };
  describe(dataset.size);
  image.onload = () => describe(dataset.size || `${image.naturalWidth} × ${image.naturalHeight}`);
  image.onerror = () => describe("This image could not be loaded from the artifact store.");
  image.src = href;
  image.alt = dataset.name;
  document.getElementById("viewer-name").textContent = dataset.name;
  document.getElementById("viewer-download").href = href;
  for (const each of viewer.querySelectorAll("[data-step]")) each.hidden = all.length < 2;
}

document.addEventListener("click", (event) => {
  const step = event.target.closest("[data-step]");
  if (step) view(viewed + Number(step.dataset.step));
  const link = event.target.closest("a[data-view]");
  // With a modifier key a browser opens the image itself.
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const index = images().findIndex(({ href }) => new URL(href).pathname === new URL(link.href).pathname);
  if (index < 0) return;
  event.preventDefault();
  view(index);
  viewer.showModal();
});

viewer?.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") view(viewed - 1);
  if (event.key === "ArrowRight") view(viewed + 1);
});

// A click beside the image closes the dialog.
viewer?.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close();
});

function suggest(input) {
  const list = input.list;
  let last = "";
  input.addEventListener("input", async () => {
    const term = input.value.trim();
    if (!term || term === last) return;
    last = term;
    const response = await fetch(`${input.dataset.suggest}&term=${encodeURIComponent(term)}`);
    if (!response.ok || term !== last) return;
    const { results } = await response.json();
    list.replaceChildren(...results.map(({ text }) => Object.assign(document.createElement("option"), { value: text })));
    // If the text is the slug of a tenant, filter at once.
    if (results.some(({ text }) => text === term) && results.length === 1) input.form.requestSubmit();
  });
}

// The server holds a request back until there is news, for so many seconds.
const WAIT_SECONDS = 30;
// Between two requests, however much news there is.
const SHORTEST_PAUSE_SECONDS = 0.5;

function follow(live) {
  const state = () => live.firstElementChild;
  const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
  const visible = () =>
    document.hidden
      ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }))
      : undefined;

  async function run() {
    while ("live" in state().dataset) {
      await visible();
      await pause(await ask());
    }
  }

  // Asks for what follows the version that is shown. Returns the seconds until the next request.
  async function ask() {
    const address = new URL(live.dataset.follow, location.href);
    address.search = location.search;
    address.searchParams.set("version", state().dataset.version);
    // A browser has few connections to a server: a hidden page keeps none.
    const hidden = new AbortController();
    const abort = () => hidden.abort();
    document.addEventListener("visibilitychange", abort);
    try {
      const response = await fetch(address, { headers: { Prefer: `wait=${WAIT_SECONDS}` }, signal: hidden.signal });
      if (response.redirected) stop("you are logged out.");
      else if (response.status === 403) stop("you may not see it any more.");
      else if (response.status === 404) stop("the job was deleted, or it is long since you opened the page.");
      else if (response.status === 200) show(await response.text());
      // Where too many others wait, the server answers at once: then this polls.
      if (response.ok && response.headers.has("Preference-Applied")) return SHORTEST_PAUSE_SECONDS;
    } catch {
      // A network error can be temporary, as can the 503 of a server that is busy: try again.
    } finally {
      document.removeEventListener("visibilitychange", abort);
    }
    return Number(state().dataset.seconds);
  }

  function stop(reason) {
    delete state().dataset.live;
    live.querySelector(".live-dot")?.remove();
    status().textContent = `This page is no longer updated: ${reason}`;
    status().classList.replace("visually-hidden", "calm");
  }

  // What can be opened or focused, by its place: its number in what has a name around it, and in JSON its path.
  function places(root) {
    const found = new Map();
    const numbers = new Map();
    for (const each of root.querySelectorAll("details, summary, a, button, [tabindex]")) {
      const around = [];
      for (let at = each.parentElement; at && at !== live; at = at.parentElement) around.push(nameOf(at));
      const kind = [each.localName, ...around.filter((name) => name !== undefined)].join(" ");
      numbers.set(kind, (numbers.get(kind) ?? 0) + 1);
      found.set(each.id || `${kind} ${numbers.get(kind)}`, each);
    }
    return found;
  }

  function nameOf(element) {
    const { id, dataset, localName, parentElement } = element;
    if (localName !== "li" || !element.closest(".json")) return id || dataset.item || dataset.place || undefined;
    return element.querySelector(":scope > .json-name")?.textContent ?? numberOf(element, parentElement);
  }

  const numbersOfItems = new WeakMap();

  function numberOf(item, list) {
    if (!numbersOfItems.has(list)) numbersOfItems.set(list, new Map([...list.children].map((each, n) => [each, n])));
    return numbersOfItems.get(list).get(item);
  }

  // What is open stays open, and what has the focus keeps it.
  function show(html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const before = places(live);
    const after = places(fresh.content);
    for (const [place, each] of after) {
      if (each.localName === "details" && before.has(place)) each.open = before.get(place).open;
    }
    const focused = [...before].find(([, each]) => each === document.activeElement)?.[0];
    const counts = new Map(
      [...live.querySelectorAll("[data-item]")].map(({ dataset }) => [dataset.item, Number(dataset.count ?? 0)]),
    );
    for (const each of fresh.content.querySelectorAll("[data-item]")) {
      const { item, count } = each.dataset;
      if (!counts.has(item) || Number(count ?? 0) > counts.get(item)) each.classList.add("is-new");
    }
    const hadFailed = Boolean(live.querySelector(".failure"));
    live.replaceChildren(fresh.content.firstElementChild);
    after.get(focused)?.focus({ preventScroll: true });
    if (state().dataset.title) document.title = document.title.replace(/^.* \|/, () => `${state().dataset.title} |`);
    const fresher = [...live.querySelectorAll(".is-new")];
    const newest = live.querySelector(".newest-first") ? fresher.shift() : fresher.pop();
    const failure = hadFailed ? null : live.querySelector(".failure");
    if (failure) announce(spoken(failure, "h2, p:not(.quiet), pre"));
    else if (newest) announce(spoken(newest, "td a[aria-label], .event-type, .host, .stage, .message, .error"));
  }

  // What a screen reader says of an element: the text of these parts of it, without what is folded.
  function spoken(element, parts) {
    const shown = [...element.querySelectorAll(parts)].filter((each) => !each.closest("details"));
    return shown.map((each) => each.getAttribute("aria-label") ?? each.innerText).join(" ");
  }

  function announce(text) {
    status().textContent = text.replace(/\s+/g, " ").trim();
  }

  run();
}

// On a narrow screen the filters are above the list, and folded.
const filters = document.querySelector(".all-filters");
const narrow = matchMedia("(max-width: 1024px)");
if (filters) {
  filters.open = !narrow.matches;
  narrow.addEventListener("change", () => (filters.open = !narrow.matches));
}

document.querySelectorAll("[data-suggest]").forEach(suggest);
document.querySelectorAll("[data-follow]").forEach(follow);
