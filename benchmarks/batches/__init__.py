"""Batches of an honest server that are read instead of searched for: `python -m benchmarks.batches PART`.

- `mlp`: whole images out of fully connected networks on CIFAR-10, untrained and trained.
- `hundred`: the same with 100 classes and up to 96 images, labels granted or not.
- `heads`: features at the head of convolutional networks and a transformer, by the network's loss on each image.
- `local`: whole images behind several steps of local training.
- `certificate`: what is certified, at all levels of noise.
- `convolutional`: whole images out of convolutional networks (`python -m benchmarks.batches.convolutional`).
- `whole`: whole images by two searches at equal time, one of which knows what was read of each example.
- `noise`: what survives noise, clipping, the largest tenth of the entries, and int8.
- `networks`: the networks of these, and their training.
- `measuring`: what one batch gives.
- `records`: where results are written, as JSON and Markdown.
"""
