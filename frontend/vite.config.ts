import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// The page is built into the Python package; the server there sends it with a policy that forbids inline scripts
// and styles, so nothing may be inlined here.
export default defineConfig({
  plugins: [svelte()],
  base: "/",
  build: {
    outDir: "../src/weighbridge/server/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      input: { index: "index.html", notebook: "src/notebook.ts" }, // the second is what a notebook loads (anywidget)
      preserveEntrySignatures: "exports-only",
      output: { entryFileNames: (chunk) => (chunk.name === "notebook" ? "notebook.js" : "assets/[name]-[hash].js") },
    },
    target: "es2022",
    reportCompressedSize: true,
  },
  server: { proxy: { "/api": "http://localhost:8765" } },
});
