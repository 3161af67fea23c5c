"""A profile so small that a whole build takes seconds: for testing the building, not the models."""

from bitweir_compression.models.profiles import Profile, Schedule, Shape

MICRO = Profile(
    name="micro",
    seed=3,
    vocabulary_size=300,
    context_tokens=256,
    tokenizer_items=60,
    documentation_share=0.1,
    strong=Shape(layer_count=1, hidden_size=32, head_count=2, kv_head_count=1, mlp_size=48),
    weak=Shape(layer_count=1, hidden_size=16, head_count=2, kv_head_count=2, mlp_size=24),
    strong_training=Schedule(step_count=6, batch_tokens=1024, learning_rate=5e-3, warmup_steps=2),
    weak_training=Schedule(step_count=5, batch_tokens=1024, learning_rate=5e-3, warmup_steps=2),
    distillation=Schedule(step_count=4, batch_tokens=1024, learning_rate=5e-3, warmup_steps=1),
    rollout_count=100,
    rollout_temperatures=(1.0, 0.0),
    rollout_tokens_max=200,
    check_prompts=8,
)
