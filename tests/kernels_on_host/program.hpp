// A program that launches kernels: it reads launches from a file and writes what the buffers then hold to another.
//
// Numbers are 8 bytes each. A launch: the kernel's number, grid and block (3 + 3), order (threads, blocks, seed), the
// bytes that a block has for itself, the buffers (their count, then for each its size in bytes, its address modulo 256
// and its bytes), the arguments (their count, then for each the buffer that it points into and the offset there, or -1
// and the number). The answer to each: the length of an error's text and the text; if that is empty, the bytes of the
// buffers.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <memory>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

// Memory of its own, so that AddressSanitizer sees every step out of it; otherwise with guards around it.
struct Buffer {
  static constexpr size_t GUARD = 256;
  size_t size, offset;
  char* block;
  char* data;
  Buffer(size_t size, size_t offset) : size(size), offset(offset) {
#ifdef __SANITIZE_ADDRESS__
    const size_t before = offset, after = 0;
#else
    const size_t before = GUARD + offset, after = GUARD;
#endif
    if (posix_memalign(reinterpret_cast<void**>(&block), 256, before + size + after)) abort();
    memset(block, 0x5a, before + size + after);
    data = block + before;
#ifdef __SANITIZE_ADDRESS__
    ASAN_POISON_MEMORY_REGION(block, before);
#endif
  }
  bool guards_are_whole() const {
#ifndef __SANITIZE_ADDRESS__
    for (const char* at = block; at < data + size + GUARD; at++)
      if ((at < data || at >= data + size) && *at != 0x5a) return false;
#endif
    return true;
  }
  ~Buffer() {
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(block, offset);
#endif
    free(block);
  }
  Buffer(const Buffer&) = delete;
};

inline void in(FILE* file, void* to, size_t size) {
  if (fread(to, 1, size, file) != size) abort();
}
inline int64_t number(FILE* file) {
  int64_t value;
  in(file, &value, sizeof value);
  return value;
}
inline Index index_in(FILE* file) {
  const unsigned x = unsigned(number(file)), y = unsigned(number(file)), z = unsigned(number(file));
  return {x, y, z};
}

inline int program(const Body* kernels, int argc, char** argv) {
  if (argc != 3) return 2;
  FILE *from = fopen(argv[1], "rb"), *to = fopen(argv[2], "wb");
  if (!from || !to) return 2;
  for (int64_t launches = number(from); launches; launches--) {
    const Body run = kernels[number(from)];
    const Index grid = index_in(from), block = index_in(from), order = index_in(from);
    give_memory(grid, size_t(number(from)));
    std::vector<std::unique_ptr<Buffer>> buffers;
    for (int64_t count = number(from); count; count--) {
      const int64_t size = number(from), offset = number(from);
      buffers.push_back(std::make_unique<Buffer>(size, offset));
      in(from, buffers.back()->data, size_t(size));
    }
    std::vector<int64_t> slots;
    for (int64_t count = number(from); count; count--) {
      const int64_t buffer = number(from), value = number(from);
      slots.push_back(buffer >= 0 ? reinterpret_cast<int64_t>(buffers[size_t(buffer)]->data + value) : value);
    }
    std::string error;
    try {
      launch(grid, block, Order{int(order.x), int(order.y), order.z}, run, slots.data());
      for (size_t i = 0; i < buffers.size(); i++)
        if (!buffers[i]->guards_are_whole()) error = "memory around buffer " + std::to_string(i) + " was written to";
    } catch (const std::exception& thrown) {
      error = thrown.what();
    }
    const int64_t length = int64_t(error.size());
    fwrite(&length, sizeof length, 1, to);
    fwrite(error.data(), 1, error.size(), to);
    if (!length)
      for (const auto& buffer : buffers) fwrite(buffer->data, 1, buffer->size, to);
  }
  fclose(from);
  return fclose(to);
}
