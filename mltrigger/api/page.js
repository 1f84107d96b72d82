// Exchanges the token for a cookie. The token stays in memory and goes into a header only.
const form = document.querySelector("form");
if (form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = form.elements.token.value.trim();
    const answer = await fetch("/v1/session", {
      method: "POST",
      headers: { Authorization: `Bearer ${token}` },
    });
    if (answer.ok) {
      location.reload();
    } else {
      document.querySelector("[role=status]").textContent = (await answer.json()).detail;
    }
  });
}
