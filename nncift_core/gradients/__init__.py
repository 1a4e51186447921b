"""Per-example gradients of a language model's adapters: warm-up training, checkpoints, projection.

adapters.py      LoRA adapters on a language model: names, shapes, the order of a gradient's coordinates
warm_up.py       a short training that leaves a checkpoint after each epoch
checkpoints.py   adapter weights with their Adam moments as safetensors files
per_sample.py    the gradient of each example's loss, many examples in one backward pass
projection.py    a seeded random projection that is never stored
features.py      the three together: unit vectors of projected gradients at one checkpoint

Every module but this one imports torch.
"""
