// The dashboard works without this file; it adds what only a script can do: copying, and pages that follow what happens.
"use strict";

document.documentElement.classList.add("scripted");

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button || !navigator.clipboard) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  navigator.clipboard.writeText(text).then(() => {
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
});

document.addEventListener("change", (event) => {
  const form = event.target.closest("form"), all = event.target.matches("[data-all]");
  if (!event.target.matches("[type=checkbox]") || !form || !form.querySelector("[data-picked]")) return;
  const boxes = [...form.querySelectorAll("[name^=pick]")];
  if (all) for (const each of boxes) each.checked = event.target.checked;
  form.querySelector("[data-picked]").textContent = `${boxes.filter((each) => each.checked).length} of ${boxes.length} picked:`;
});

// On a narrow screen, the menu scrolls: show where the user is.
const menu = document.querySelector("nav.main"), current = menu?.querySelector("[aria-current]");
if (current) menu.scrollLeft = current.offsetLeft + current.offsetWidth / 2 - menu.offsetLeft - menu.clientWidth / 2;

for (const each of document.querySelectorAll(".centred")) each.scrollLeft = (each.scrollWidth - each.clientWidth) / 2;

const live = document.getElementById("live"), pauseButton = document.getElementById("pause");
if (live && pauseButton) follow(live, pauseButton, document.getElementById("told"));

// One stream while the page can be seen: a browser has few connections to a host, and a hidden page needs none.
// What cannot be followed is said at the top, since an old page looks like one on which nothing happens.
function follow(part, pause, told) {
  let stream = null, paused = false, busy = false, missed = false, known = clock(), later = 0;

  const tell = (text, kind) => {
    clearTimeout(later);
    if (told.textContent !== text) told.textContent = text;
    told.className = `finding said ${kind}`;
  };
  const behind = (why) => tell(`${why} This page shows what was known at ${known}, and follows again by itself.`, "warning");
  const upToDate = () => {
    known = clock();
    if (!told.classList.contains("warning")) return;
    tell("This page updates itself again.", "good");
    later = setTimeout(() => tell("", ""), 10000);
  };
  const inUse = () => { // a new page would empty a form, or take away a button between press and release
    const typing = part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, summary");
    const aiming = part.querySelector("[data-all]")?.closest(".table").matches(":hover"); // rows must not move under the pointer
    return paused || typing || aiming || changed(part) || part.matches(":active");
  };
  const swap = async () => {
    if (part.matches(":active")) { setTimeout(swap, 500); return; }
    if (inUse()) return;
    if (busy) { missed = true; return; }
    busy = true;
    try {
      const response = await fetch(location.href, { cache: "no-store", redirect: "manual" });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      if (inUse()) { missed = true; return; } // since the request
      if (response.type === "opaqueredirect") return location.reload(); // logged out
      if (!response.ok) {
        if (page.title !== document.title) behind(`${page.querySelector("h1")?.textContent || response.status}.`);
        return;
      }
      const found = page.getElementById("live");
      if (!found || page.title !== document.title) return location.reload(); // an error before
      const focused = where(part, document.activeElement);
      const scrolled = [...part.querySelectorAll(".table")].map((each) => each.scrollLeft);
      const opened = [...part.querySelectorAll("details")].map((each) => each.open);
      part.replaceChildren(...found.childNodes);
      [...part.querySelectorAll("details")].forEach((each, number) => { each.open = opened[number] ?? each.open; });
      [...part.querySelectorAll(".table")].forEach((each, number) => { each.scrollLeft = scrolled[number] || 0; });
      if (focused !== null) (reachable(part)[focused] || document.getElementById("main")).focus({ preventScroll: true });
      upToDate();
    } catch { behind("The dashboard cannot be reached.");
    } finally {
      busy = false;
      if (missed) { missed = false; swap(); }
    }
  };
  const open = () => {
    if (stream || paused || document.hidden) return;
    if (!part.dataset.live) { // a server without streams: ask
      const timer = setInterval(swap, 5000);
      stream = { close: () => clearInterval(timer) };
      return;
    }
    stream = new EventSource(part.dataset.live);
    stream.addEventListener("change", swap);
    stream.addEventListener("open", () => { if (told.classList.contains("warning")) swap(); });
    stream.addEventListener("error", () => {
      behind("The dashboard cannot be reached.");
      if (stream && stream.readyState === EventSource.CLOSED) { // refused, perhaps logged out: the browser gives up
        close();
        swap();
        setTimeout(open, 5000);
      }
    });
  };
  const close = () => { if (stream) stream.close(); stream = null; };

  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else { open(); swap(); } });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) { open(); swap(); } });
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "follow" : "pause";
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) { close(); tell("", ""); } else { open(); swap(); }
  });
  open();
}

// Whether the user has begun to fill in a form, which a new page would empty.
function changed(part) {
  return [...part.querySelectorAll("input, textarea, select")].some((each) => {
    if (each.matches("[type=checkbox], [type=radio]")) return each.checked !== each.defaultChecked;
    if (each.matches("select")) return [...each.options].some((one) => one.selected !== one.defaultSelected);
    return each.value !== each.defaultValue;
  });
}

function clock() { return new Date().toTimeString().slice(0, 8); }

function reachable(part) { return [...part.querySelectorAll("a, button, input, [tabindex]")]; }

function where(part, element) { const found = reachable(part).indexOf(element); return found < 0 ? null : found; }
