// Philox4x64-10, the counter-based random numbers of numpy.random.Philox, bit for bit (Salmon et al. 2011, "Parallel
// random numbers: as easy as 1, 2, 3"), on CUDA and on the CPU. numpy.random.Philox(key, counter) gives the blocks of
// counter + 1, counter + 2 ...

struct Philox { u64 word[4]; };

// a b, of 128 bits
struct WideProduct { u64 high, low; };
#ifdef BP_CPU
BP_DEV WideProduct wide_product(u64 a, u64 b) {  // one instruction
  const auto both = __extension__(unsigned __int128)(a) * b;
  return {u64(both >> 64), u64(both)};
}
#else
BP_DEV WideProduct wide_product(u64 a, u64 b) { return {__umul64hi(a, b), a * b}; }
#endif

// The block of four random words that belongs to a counter and a key.
BP_DEV Philox philox(u64 c0, u64 c1, u64 c2, u64 c3, u64 k0, u64 k1) {
  const u64 m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
  BP_UNROLLED
  for (int round = 0; round < 10; round++) {
    const WideProduct p0 = wide_product(m0, c0), p1 = wide_product(m1, c2);
    c0 = p1.high ^ c1 ^ k0, c1 = p1.low, c2 = p0.high ^ c3 ^ k1, c3 = p0.low;
    k0 += 0x9E3779B97F4A7C15ull, k1 += 0xBB67AE8584CAA73Bull;
  }
  const Philox block = {{c0, c1, c2, c3}};
  return block;
}

// Number `i` (0 to 7) of the eight float32 in [0, 1) that Generator.random(dtype=float32) makes of a block: the low
// half of each word, then its high half, 24 bits of each.
BP_DEV float uniform(u32 half) { return float(int(half >> 8)) * (1.0f / 16777216.0f); }
BP_DEV float uniform(const Philox& block, int i) { return uniform(u32(block.word[i >> 1] >> (i & 1 ? 32 : 0))); }
