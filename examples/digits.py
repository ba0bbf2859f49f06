"""Handwritten digits in a second: data, network, training, and what it confuses.

What one learns here: how little there is to say. Layers, a loss and an optimizer; x is (rows, inputs) between about −1
and 1, labels are whole numbers, and some rows are held out, since those that it has seen prove nothing. The gradients
by which it learns were derived by hand, so they are held against finite differences first.
"""

import gpu_backprop as gb
from gpu_backprop.data import load_digits, stratified_split
from gpu_backprop.report import confusion_matrix, confusion_text

x, labels = load_digits()
x = x / 16  # pixels from 0 to 16
train, test = stratified_split(labels, 0.2, seed=0)

net = gb.Network(64, [gb.Dense(100, "relu"), gb.Dropout(0.2), gb.Dense(10, "softmax")], seed=0)
net.summary()
checked = gb.check_gradients(net, "cross_entropy", x[:4], labels[:4])  # raises where a derivative is wrong
print(f"{checked.checked} derivatives agree; the worst is off by {checked.error:.1e} of its size")

trainer = gb.Trainer(net, "cross_entropy", gb.Adam(0.003), batch_size=32)
trainer.fit(x[train], labels[train], epochs=20, validation=(x[test], labels[test]))
guesses = net.predict(x[test]).argmax(axis=1)
print(confusion_text(confusion_matrix(labels[test], guesses, 10)))
print(f"held-out digits read rightly: {(guesses == labels[test]).mean():.1%}")

gb.save("digits.safetensors", net)
again = gb.load("digits.safetensors").predict(x[test]).argmax(axis=1)
assert (again == guesses).all()
