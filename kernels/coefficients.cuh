// Functions of coefficients that are the same on CUDA and on the CPU, with root and power, which are not.

// r of RAdam, in double: the length of the average is a small difference of large numbers
BP_DEV double rectification(double beta, double step) {
  const double longest = 2 / (1 - beta) - 1, to_step = power(beta, step);
  const double length = longest - 2 * step * to_step / (1 - to_step);
  if (!(length > 5)) return 0;
  return root((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length));
}

// The product of beta (1 - 0.96^(i decay) / 2) for i = 1 ... step, or what is too small to make a difference to 1.
template<class C> BP_DEV C momentum_product(C beta, C decay, double step) {
  C product = C(1), to_i = C(1);
  const C factor = C(power(C(0.96), decay));
  for (i64 i = 0; i < i64(step) && product >= C(1e-20); i++) {
    to_i *= factor;
    product *= beta * (C(1) - to_i / 2);
  }
  return product;
}
