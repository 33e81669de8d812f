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

static void passes(int64_t norm, int64_t gelu) {
    const int64_t widths[DEPTH + 1] = {7, 70, 33, 2};
    float *inputs[DEPTH], *kernels[DEPTH], *biases[DEPTH], *gradients[DEPTH];
    float *kernel_gradients[DEPTH], *bias_gradients[DEPTH], *masks[DEPTH];
    float *scales[DEPTH], *shifts[DEPTH], *scale_gradients[DEPTH], *shift_gradients[DEPTH];
    float *products[DEPTH], *statistics[DEPTH];
    for (int i = 0; i < DEPTH; i++) {
        const size_t size = (size_t)widths[i] * widths[i + 1], rows = (size_t)BATCH * widths[i + 1];
        inputs[i] = numbers((size_t)BATCH * widths[i], i ? 0 : 1);
        kernels[i] = numbers(size, 0.3f);
        biases[i] = numbers(widths[i + 1], 0.1f);
        gradients[i] = numbers(rows, 0);
        kernel_gradients[i] = numbers(size, 0), bias_gradients[i] = numbers(widths[i + 1], 0);
        scales[i] = numbers(widths[i + 1], 2), shifts[i] = numbers(widths[i + 1], 1);
        scale_gradients[i] = numbers(widths[i + 1], 0), shift_gradients[i] = numbers(widths[i + 1], 0);
        products[i] = numbers(rows, 0), statistics[i] = numbers(2 * BATCH, 0);
        masks[i] = numbers(rows, 1);
        for (size_t j = 0; j < rows; j++) masks[i][j] = masks[i][j] > -0.5f ? 1.25f : 0;
    }
    float *const output = numbers(BATCH * 2, 0), *const of_output = numbers(BATCH * 2, 1);
    const struct pass pass = {.depth = DEPTH,
                              .batch = BATCH,
                              .norm = norm,
                              .gelu = gelu,
                              .widths = widths,
                              .inputs = inputs,
                              .kernels = kernels,
                              .biases = biases,
                              .gradients = gradients,
                              .kernel_gradients = kernel_gradients,
                              .bias_gradients = bias_gradients,
                              .norm_scales = scales,
                              .norm_biases = shifts,
                              .norm_scale_gradients = scale_gradients,
                              .norm_bias_gradients = shift_gradients,
                              .products = products,
                              .statistics = statistics,
                              .output = output,
                              .scratch = numbers(MOST, 0)};
    forward(&pass, (const float *const *)masks);
    print("output", BATCH * 2, output);
    float *const of_input = numbers((size_t)BATCH * widths[0], 0);
    backward(&pass, of_output, 1.25f, (const float *const *)masks, 1, of_input);
    print("input gradient", (size_t)BATCH * widths[0], of_input);
    for (int i = 0; i < DEPTH; i++) {
        print("kernel gradient", (size_t)widths[i] * widths[i + 1], kernel_gradients[i]);
        print("bias gradient", widths[i + 1], bias_gradients[i]);
        print("scale gradient", widths[i + 1], scale_gradients[i]);
        print("shift gradient", widths[i + 1], shift_gradients[i]);
    }
    follow(70 * 33, kernels[1], kernel_gradients[1], 0.25);
    print("follow", 70 * 33, kernels[1]);
}

int main(void) {
    for (int64_t norm = NO_NORM; norm <= AFTER_RELU; norm++) passes(norm, 0), passes(norm, 1);
    return 0;
}
