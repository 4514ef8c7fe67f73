"""The engines that run an ONNX graph: our own (`native`) and Microsoft's (`onnxruntime`)."""
