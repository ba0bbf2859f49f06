// Settings that follow a schedule.
#include "port.hpp"

// values = settings . factors, where `row` factors of each step are in the table: each model's own, or those of all.
// With two values a setting, the second one is 1/(1 - the first).
BP_CPU void follow_schedule(
    const double* table,     // [steps, models, n]
    const i64* position,     // [1]
    const double* settings,  // [models, n]
    double* values,          // [models, size]
    i64 table_step, i64 settings_step, i64 values_step, i64 steps, i64 row, i64 models, i64 n,
    i64 size, i64 part, i64 parts) {
  const double* const factors = table + (position[0] < steps ? position[0] : steps - 1) * row;
  for (i64 m = part; m < models; m += parts) {
    const double* const of = factors + m * table_step;
    for (i64 c = 0; c < n; c++) {
      const double value = settings[m * settings_step + c] * of[c];
      if (size == n) {
        values[m * values_step + c] = value;
      } else {
        values[m * values_step + 2 * c] = value;
        values[m * values_step + 2 * c + 1] = 1 / (1 - value);
      }
    }
  }
}
