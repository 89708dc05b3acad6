// The support console's script: copy buttons, tenant suggestions, live timelines, missing pictures, shortcuts.
"use strict";

const status = () => document.getElementById("live-status");

async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  // Over plain http browsers offer nothing else.
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

// Errors of pictures do not bubble, hence the capture.
document.addEventListener(
  "error",
  (event) => {
    if (!event.target.matches?.(".artifact img")) return;
    const missing = Object.assign(document.createElement("span"), { className: "file missing" });
    missing.textContent = "The store did not give this picture.";
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
    const answer = await fetch(`${input.dataset.suggest}&term=${encodeURIComponent(term)}`);
    if (!answer.ok || term !== last) return;
    const { results } = await answer.json();
    list.replaceChildren(...results.map(({ text }) => Object.assign(document.createElement("option"), { value: text })));
    // A whole slug out of the list needs no Enter.
    if (results.some(({ text }) => text === term) && results.length === 1) input.form.requestSubmit();
  });
}

function follow(live) {
  const seconds = Number(live.dataset.seconds);
  const state = () => live.firstElementChild;

  async function look() {
    if (!document.hidden) {
      const address = new URL(live.dataset.timeline, location.href);
      address.search = location.search;
      address.searchParams.set("version", state().dataset.version);
      try {
        const answer = await fetch(address);
        if (answer.status === 200 && !answer.redirected) show(await answer.text());
        else if (answer.status !== 204) return; // signed out, or gone
      } catch {
        // The gateway was away for a moment: the next look may find it back.
      }
    }
    if ("live" in state().dataset) setTimeout(look, seconds * 1000);
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
    const news = live.querySelector(".timeline > li.is-new:last-child .event-line");
    if (news) status().textContent = news.textContent.replace(/\s+/g, " ").trim();
  }

  if ("live" in state().dataset) setTimeout(look, seconds * 1000);
}

// On a narrow screen the filters lie above the list: only those in use stay open.
if (matchMedia("(max-width: 1024px)").matches) {
  for (const each of document.querySelectorAll("#changelist-filter > details")) {
    each.open = Boolean(each.querySelector("li.selected:not(:first-child), input[value]:not([value=''])[type=search]"));
  }
}

document.querySelectorAll("[data-suggest]").forEach(suggest);
document.querySelectorAll("[data-timeline]").forEach(follow);
