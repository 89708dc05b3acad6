"use strict";

// Swagger UI's dark colours have this class. In the head, so that no light page flashes up first.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
follow();
dark.addEventListener("change", follow);
