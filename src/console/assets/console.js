// Light scripting: every page works without it.
"use strict";

// Fragments that keep themselves up to date: <section data-live="/console/live" data-every="2">. A fragment in which
// somebody has the focus is left alone, and so is a page that nobody looks at.
for (const fragment of document.querySelectorAll("[data-live]")) {
  const left_alone = () => document.hidden || fragment.contains(document.activeElement);
  const refresh = async () => {
    if (left_alone()) return;
    try {
      const answer = await fetch(fragment.dataset.live, { headers: { "x-fragment": "1" } });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text();
      // Somebody may have come to it while it was asked for.
      if (left_alone()) return;
      fragment.innerHTML = text;
      fragment.classList.remove("stale");
    } catch {
      fragment.classList.add("stale");
    }
  };
  setInterval(refresh, Number(fragment.dataset.every) * 1000);
}

// Forms that change something for good ask once more.
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
