/* Passes and steps of native.c on made-up numbers, printed: the same on every kind of processor, to rounding. */

#include <stdio.h>
#include <stdlib.h>

#include "native.c"

enum { DEPTH = 3, BATCH = 19, MOST = 200000 };

static float drawn(void) { /* in ±1, the same everywhere */
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (int32_t)state / 2147483648.0f;
}

static float *numbers(size_t count, float scale) {
    float *const made = calloc(count + 64, sizeof *made);
    for (size_t i = 0; i < count; i++) made[i] = scale * drawn();
    return made;
}

static void print(const char *name, size_t count, const float *x) {
    for (size_t i = 0; i < count; i++) printf("%s %.9g\n", name, x[i]);
}

int main(void) {
    const int64_t widths[DEPTH + 1] = {7, 70, 33, 2};
    float *inputs[DEPTH], *kernels[DEPTH], *biases[DEPTH], *gradients[DEPTH];
    float *kernel_gradients[DEPTH], *bias_gradients[DEPTH], *masks[DEPTH];
    for (int i = 0; i < DEPTH; i++) {
        const size_t size = (size_t)widths[i] * widths[i + 1];
        inputs[i] = numbers((size_t)BATCH * widths[i], i ? 0 : 1);
        kernels[i] = numbers(size, 0.3f);
        biases[i] = numbers(widths[i + 1], 0.1f);
        gradients[i] = numbers((size_t)BATCH * widths[i + 1], 0);
        kernel_gradients[i] = numbers(size, 0), bias_gradients[i] = numbers(widths[i + 1], 0);
        masks[i] = numbers((size_t)BATCH * widths[i + 1], 1);
        for (size_t j = 0; j < (size_t)BATCH * widths[i + 1]; j++) masks[i][j] = masks[i][j] > -0.5f ? 1.25f : 0;
    }
    float *const output = numbers(BATCH * 2, 0), *const scratch = numbers(MOST, 0), *const of_output = numbers(BATCH * 2, 1);
    const struct pass pass = {DEPTH,     BATCH,     0,      widths, inputs, kernels, biases,
                              gradients, kernel_gradients, bias_gradients, output, scratch};
    forward(&pass, (const float *const *)masks);
    print("output", BATCH * 2, output);
    backward(&pass, of_output, 1.25f);
    for (int i = 0; i < DEPTH; i++) {
        print("kernel gradient", (size_t)widths[i] * widths[i + 1], kernel_gradients[i]);
        print("bias gradient", widths[i + 1], bias_gradients[i]);
    }
    follow(70 * 33, kernels[1], kernel_gradients[1], 0.25);
    print("follow", 70 * 33, kernels[1]);
    return 0;
}
