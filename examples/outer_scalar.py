"""A network that learns to throw without ever being shown a throw: E is physics, and no loss of this package.

What one learns here: note N3. A layer does not care where ∂E/∂y comes from. The network is given a distance d and
answers with a velocity (vx, vy); a ball that leaves the ground so lands at r = 2·vx·vy/g. It should land at d, and with
little effort: E is the mean of (r − d)² + c·(vx² + vy²). Its derivatives by vx and vy are written down by hand, and
net.backward takes them from there. Nobody tells the network that 45° needs the least effort. It finds out.
"""

import numpy as np

import gpu_backprop as gb

G, EFFORT, RATE = 9.81, 0.005, 0.02  # m/s², c, learning rate
stream = np.random.default_rng(0)
layers = [gb.Dense(16, "tanh"), gb.Dense(2, "softplus")]
net = gb.Network(1, layers, dtype="float64", device="cpu", seed=0)  # on CUDA d and v would have to be CuPy arrays


def throw(d, v):
    """E of the throws v (rows, 2) at the distances d (rows, 1), and ∂E/∂v."""
    r = 2 * v[:, :1] * v[:, 1:] / G
    E = ((r - d) ** 2 + EFFORT * (v**2).sum(axis=1, keepdims=True)).mean()
    grad_r = 2 * (r - d) / len(d)
    return E, grad_r * 2 * v[:, ::-1] / G + 2 * EFFORT * v / len(d)  # ∂r/∂vx = 2·vy/g and ∂r/∂vy = 2·vx/g


for step in range(4001):
    d = stream.uniform(1, 5, size=(32, 1))  # metres
    E, grad_v = throw(d, net.forward(d))
    net.backward(grad_v)
    for layer in net.layers:
        layer.weight -= RATE * layer.grad_weight
        layer.bias -= RATE * layer.grad_bias
    if step % 1000 == 0:
        print(f"step {step}: E = {E:.4f}")

for d in (1.5, 3.0, 4.5):
    vx, vy = net.predict([[d]])[0]
    print(f"{d} m: thrown at {np.degrees(np.arctan2(vy, vx)):.0f}°, lands at {2 * vx * vy / G:.2f} m")
