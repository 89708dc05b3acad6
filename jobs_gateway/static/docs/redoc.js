"use strict";

// Redoc's footer fetches a logo from another host. There is no other image on this page, so it gets none at all.
document.createElement = (name, ...options) =>
  Document.prototype.createElement.call(document, name === "img" ? "span" : name, ...options);

const dark = matchMedia("(prefers-color-scheme: dark)");
const darkTheme = {
  colors: {
    primary: { main: "#9aa8ff" },
    success: { main: "#56d394" },
    error: { main: "#ff8189" },
    warning: { main: "#f5b85a" },
    text: { primary: "#e6e9f0", secondary: "#9aa4b8" },
    border: { dark: "#3a4458", light: "#2b3342" },
    gray: { 50: "#1f2633", 100: "#1f2633" },
    responses: {
      success: { color: "#56d394", backgroundColor: "#12331f", tabTextColor: "#56d394" },
      error: { color: "#ff8189", backgroundColor: "#411a20", tabTextColor: "#ff8189" },
      redirect: { color: "#f5b85a", backgroundColor: "#3a2a0e", tabTextColor: "#f5b85a" },
      info: { color: "#74b3ff", backgroundColor: "#14294a", tabTextColor: "#74b3ff" },
    },
  },
  schema: {
    nestedBackground: "#171c26",
    linesColor: "#3a4458",
    typeNameColor: "#b7c0d4",
    typeTitleColor: "#b7c0d4",
    requireLabelColor: "#ff8189",
    arrow: { color: "#9aa4b8" },
  },
  sidebar: { backgroundColor: "#171c26", textColor: "#e6e9f0", activeTextColor: "#9aa8ff" },
  rightPanel: { backgroundColor: "#10151e", textColor: "#e6e9f0" },
  codeBlock: { backgroundColor: "#0a0d13" },
  typography: { code: { color: "#f0b775", backgroundColor: "#1f2633" }, links: { color: "#9aa8ff" } },
};

const docs = document.getElementById("docs");
Redoc.init(docs.dataset.document, dark.matches ? { theme: darkTheme } : {}, docs);
// Redoc takes a theme only when it starts.
dark.addEventListener("change", () => location.reload());
