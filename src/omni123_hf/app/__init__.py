"""The web app, `omni123 app`: forms around the pipelines. Nothing is computed here that a pipeline does not compute."""
