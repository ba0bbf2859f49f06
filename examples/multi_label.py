"""Several yes-or-no questions about one sample, none of which excludes another.

What one learns here: with softmax the outputs compete, with sigmoid each of them answers its own question, and binary
cross entropy adds up how wrong the answers are. The questions about a digit are: is it even, is there a closed loop in
it, is it larger than 4? Only what a question means differs from classification; the rest of the program is the same.
"""

import numpy as np

import gpu_backprop as gb
from gpu_backprop.data import load_digits, stratified_split

QUESTIONS = {"even": [0, 2, 4, 6, 8], "a closed loop": [0, 6, 8, 9], "above 4": [5, 6, 7, 8, 9]}

x, digits = load_digits()
x = x / 16
y = np.stack([np.isin(digits, yes) for yes in QUESTIONS.values()], axis=1)  # (rows, 3) of True and False
train, test = stratified_split(digits, 0.2, seed=0)

net = gb.Network(64, [gb.Dense(64, "tanh"), gb.Dense(3, "sigmoid")], seed=0)
trainer = gb.Trainer(net, "binary_cross_entropy", gb.Adam(0.005), batch_size=32)
trainer.fit(x[train], y[train], epochs=20, progress=False)

answers = net.predict(x[test])  # a probability of yes for each question
right = (answers > 0.5) == y[test]
for question, share in zip(QUESTIONS, right.mean(axis=0), strict=True):
    print(f"{question}: {share:.1%} right")
print(f"all three at once: {right.all(axis=1).mean():.1%}, which is what the accuracy of evaluate counts:")
print(trainer.evaluate(x[test], y[test]))
