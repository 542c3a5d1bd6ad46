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

const live = document.getElementById("live");
if (live) follow(live, document.getElementById("pause"));

// One stream while the page can be seen: a browser has few connections to a host, and a hidden page needs none.
function follow(part, pause) {
  let stream = null, paused = false, busy = false;

  const swap = async () => {
    const typing = part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, summary");
    if (busy || paused || typing) return;
    busy = true;
    try {
      const response = await fetch(location.href, { cache: "no-store", redirect: "manual" });
      if (response.type === "opaqueredirect") return location.reload(); // logged out
      if (!response.ok) return;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const found = page.getElementById("live");
      if (!found || paused) return;
      const focused = where(part, document.activeElement);
      const scrolled = [...part.querySelectorAll(".table")].map((each) => each.scrollLeft);
      part.replaceChildren(...found.childNodes);
      [...part.querySelectorAll(".table")].forEach((each, number) => { each.scrollLeft = scrolled[number] || 0; });
      if (focused !== null) (reachable(part)[focused] || document.getElementById("main")).focus({ preventScroll: true });
    } catch { // the server is away: the stream comes back, and brings the next change
    } finally { busy = false; }
  };
  const open = () => {
    if (stream || paused || document.hidden) return;
    stream = new EventSource(part.dataset.live);
    stream.addEventListener("change", swap);
  };
  const close = () => { if (stream) stream.close(); stream = null; };

  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else { open(); swap(); } });
  addEventListener("pagehide", close);
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "follow" : "pause";
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) close(); else { open(); swap(); }
  });
  open();
}

function reachable(part) { return [...part.querySelectorAll("a, button, input, [tabindex]")]; }

function where(part, element) { const found = reachable(part).indexOf(element); return found < 0 ? null : found; }
