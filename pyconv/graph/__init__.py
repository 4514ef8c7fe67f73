"""The compiler: ONNX file → checked → typed IR → passes → native program (docs/compiler.md)."""
