// The script of the support console: copy buttons, tenant suggestions, live updates, missing images, shortcuts.
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
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const label = button.textContent;
  await copy(button.dataset.copy);
  button.textContent = "Copied";
  button.classList.add("is-done");
  setTimeout(() => {
    button.textContent = label;
    button.classList.remove("is-done");
  }, 1500);
});

// Error events of images do not bubble, so this listens in the capture phase.
document.addEventListener(
  "error",
  (event) => {
    if (!event.target.matches?.(".artifact img")) return;
    const missing = Object.assign(document.createElement("span"), { className: "file missing" });
    missing.textContent = "This image could not be loaded from the artifact store.";
    event.target.replaceWith(missing);
  },
  true,
);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
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

function pollTimeline(live) {
  const seconds = Number(live.dataset.seconds);
  const state = () => live.firstElementChild;

  async function poll() {
    if (!document.hidden) {
      const address = new URL(live.dataset.timeline, location.href);
      address.search = location.search;
      address.searchParams.set("version", state().dataset.version);
      try {
        const response = await fetch(address);
        if (response.status === 200 && !response.redirected) show(await response.text());
        else if (response.status !== 204) return; // logged out, or the job was deleted
      } catch {
        // A network error can be temporary: try again at the next poll.
      }
    }
    if ("live" in state().dataset) setTimeout(poll, seconds * 1000);
  }

  function show(html) {
    const open = new Map([...live.querySelectorAll("details[id]")].map((each) => [each.id, each.open]));
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    for (const each of fresh.content.querySelectorAll("details[id]")) {
      if (open.has(each.id)) each.open = open.get(each.id);
    }
    const known = new Set([...live.querySelectorAll(".timeline > li")].map((each) => each.id));
    for (const each of fresh.content.querySelectorAll(".timeline > li")) {
      if (!known.has(each.id)) each.classList.add("is-new");
    }
    live.replaceChildren(fresh.content.firstElementChild);
    const newest = live.querySelector(".timeline > li.is-new:last-child .event-line");
    if (newest) status().textContent = newest.textContent.replace(/\s+/g, " ").trim();
  }

  if ("live" in state().dataset) setTimeout(poll, seconds * 1000);
}

// On a narrow screen the filters are above the list. Close those that are not in use.
if (matchMedia("(max-width: 1024px)").matches) {
  for (const each of document.querySelectorAll("#changelist-filter > details")) {
    each.open = Boolean(each.querySelector("li.selected:not(:first-child), input[value]:not([value=''])[type=search]"));
  }
}

document.querySelectorAll("[data-suggest]").forEach(suggest);
document.querySelectorAll("[data-timeline]").forEach(pollTimeline);
