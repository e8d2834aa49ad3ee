export default {
  base: "./",
  build: {
    outDir: "../static",
    emptyOutDir: true,
    modulePreload: false,
    rollupOptions: { output: { entryFileNames: "studio.js", assetFileNames: "studio.[ext]" } },
  },
};
