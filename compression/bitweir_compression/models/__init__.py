"""The embedded strong/weak pair: how it is described, trained, stored, loaded and checked.

Rules:
1. A model is a Hugging Face folder (config.json, model.safetensors, tokenizer.json, tokenizer_config.json) plus
   model_card.json; `AutoModelForCausalLM.from_pretrained` loads it, nothing here is pickled.
2. Building is a list of stages; each stage's result is a file that is written whole or not at all, so an interrupted
   build goes on where it stopped.
3. Training code imports only torch, numpy, transformers, safetensors and tokenizers, and runs on torch >= 2.11.
"""
