for (const button of document.querySelectorAll(".code button")) {
  const code = button.parentElement.querySelector("pre");
  button.hidden = false;
  button.onclick = async () => {
    getSelection().selectAllChildren(code);
    let copied = false;
    // Under plain http and in a portal's frame there is no clipboard but by the old command.
    try { await navigator.clipboard.writeText(code.textContent); copied = true; }
    catch { copied = document.execCommand("copy"); }
    if (copied) { button.textContent = button.dataset.copied; }
  };
}
