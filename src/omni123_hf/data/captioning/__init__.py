"""Captions at three lengths (paper §3.4): a three-stage conversation with a vision-language model, or templates.

| module | what it decides |
|---|---|
| `result.py` | what every captioner returns |
| `prompts.py`, `prompts/` | the words of the conversation, its categories and examples, and their version |
| `schema.py`, `stages.py` | the form of each answer: JSON schema, and what a schema cannot say |
| `backends.py` | the door to a model; `transformers_backend.py` and `openai_backend.py` stand behind it |
| `local_models.py` | models of this machine, sent to other processes by name |
| `deadline.py` | until when a model may answer |
| `grounding.py` | what the source knows, as metadata |
| `conversation.py` | the three stages in one conversation, with repair turns |
| `template.py` | the same result without a model |
| `given.py` | captions that assets bring, kept where they fit |
| `consistency.py`, `alignment.py` | which captions are kept |
| `cache.py`, `runner.py` | many assets: nothing is paid for twice |
"""
