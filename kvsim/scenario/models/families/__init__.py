"""One function a family that reads its `config.json`; `table` lists them by `model_type`."""
