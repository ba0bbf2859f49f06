"""From a CSV file with words in it to predictions in the units of the file.

What one learns here: a network reads numbers of ordinary size, a file has words, gaps and years. What lies between is
learned from the training rows: mean and spread of each column, the categories of the words, and what stands in for a
missing value. It is saved with the network, so that new rows, raw and with columns in any order, are read alike.
"""

from pathlib import Path

import numpy as np

import gpu_backprop as gb
from gpu_backprop.data import Preprocessing, read

stream = np.random.default_rng(0)  # flats with made-up rents, so that we know what there is to be found
PER_M2 = {"harbour": 9, "hill": 14, "old town": 11}
lines = ["district,m2,built,rent"]
for _ in range(400):
    district, m2, built = stream.choice(list(PER_M2)), stream.integers(25, 120), stream.integers(1900, 2020)
    rent = (PER_M2[district] + 3 * (built > 1990)) * m2 + stream.normal(0, 25)
    lines.append(f"{district},{m2},{built if stream.random() > 0.1 else ''},{rent:.0f}")
Path("flats.csv").write_text("\n".join(lines), encoding="utf-8")
Path("new.csv").write_text("built,m2,district\n2005,60,hill\n1950,60,harbour\n,60,island\n", encoding="utf-8")

table, train, test = read("flats.csv"), np.arange(320), np.arange(320, 400)
learned = Preprocessing.fit(table, "rent", impute="median", rows=train)
print(learned.why, learned.features, sep="\n")
x, y = learned.transform(table), learned.targets(table)
net = gb.Network(learned.inputs, [gb.Dense(32, "tanh"), gb.Dense(learned.outputs)], seed=0)
trainer = gb.Trainer(net, "half_squared_error", gb.Adam(0.01), batch_size=32)
trainer.fit(x[train], y[train], epochs=100, progress=False)
print(f"R² on the rows that were held out: {trainer.evaluate(x[test], y[test])['r2']:.3f}")
net.preprocessing = learned
gb.save("flats.safetensors", net)

net = gb.load("flats.safetensors")  # a month later
rents = net.preprocessing.inverse(net.predict(net.preprocessing.transform(read("new.csv"))))
print(f"rents: {rents.ravel().round()}; rows with words never seen, by column: {net.preprocessing.unseen}")
