"""A client's filter chain tested: known updates are pushed through it, and what comes out is held against them.

- `chains/`: whatever a chain is configured as, as one thing that is handed an update and returns one.
- `known`: the network and the updates that are pushed.
- `probing`: the pushes, and what each came to.
- `noise`: is there noise, how large is it, what law does it follow, is it drawn anew.
- `clipping`: the norm beyond which an update is scaled down, and when it is.
- `fates`: what became of each tensor, in words and numbers.
- `odd`: NaN, infinity and zeros.
- `seen`: all that was measured.
- `proven`: epsilon, or the reasons why there is none.
- `attacking`: the attacks before and after, by servers that know the chain and that do not.
- `findings`: what is broken.
- `verdict`: all of it together.
"""
