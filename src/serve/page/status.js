for (const time of document.querySelectorAll("time")) {
  const at = new Date(time.dataset.at * 1000);
  time.textContent = at.toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
}
