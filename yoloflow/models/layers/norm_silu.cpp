// BatchNorm in training mode (Ioffe and Szegedy 2015) followed by SiLU, on float32 maps in channels_last.
//
// A map is a matrix here: a row for each cell of each image, a column for each channel; the number of channels is a
// multiple of 16. Sums are made in tiles of a fixed number of rows, which are added in float64 and in their order:
// the results do not depend on the number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Vectors as wide as the processor's: compilers make slow code of wider ones.
#ifdef __AVX512F__
constexpr int64_t kLanes = 16;
#elif defined(__AVX__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

inline Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

inline Floats fill(float value) { return value - Floats{}; }

constexpr float kExponentialTerms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f};

// e^x as 2^n * e^f with |f| <= ln(2) / 2, e^f by its Taylor series; x is kept where 2^n is a normal number.
inline Floats exponential(Floats x) {
  x = x < -87.0f ? fill(-87.0f) : x;
  x = x > 88.0f ? fill(88.0f) : x;
  // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits.
  const Floats rounded = x * 1.44269504f + 12582912.0f;
  Ints exponent;
  std::memcpy(&exponent, &rounded, sizeof exponent);
  exponent <<= 23;
  const Floats n = rounded - 12582912.0f;
  const Floats f = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2) in two parts
  Floats series = fill(1.0f / 5040);
  for (const float term : kExponentialTerms) series = series * f + term;
  Ints bits;
  std::memcpy(&bits, &series, sizeof bits);
  bits += exponent;
  std::memcpy(&series, &bits, sizeof series);
  return series;
}

inline Floats sigmoid(Floats z) { return 1.0f / (1.0f + exponential(-z)); }

inline int64_t rows_of_tile(int64_t channels) { return channels > 256 ? 64 : 16384 / channels; }

// Calls work.operator()<K>(channel) for all channels, in groups of 4 * kLanes and of kLanes: sums stay in registers.
template <class Work>
inline void for_channels(int64_t channels, Work work) {
  int64_t channel = 0;
  for (; channel + 4 * kLanes <= channels; channel += 4 * kLanes) work.template run<4>(channel);
  for (; channel < channels; channel += kLanes) work.template run<1>(channel);
}

// Mean and summed squared deviations of each channel in a tile, from deviations from its first row.
struct Moments {
  const float* map;
  int64_t rows, channels;
  float *means, *squares;

  template <int K>
  void run(int64_t channel) const {
    Floats first[K], sum[K], square[K];
    for (int k = 0; k < K; k++) {
      first[k] = load(map + channel + kLanes * k);
      sum[k] = square[k] = fill(0);
    }
    for (int64_t row = 1; row < rows; row++)
      for (int k = 0; k < K; k++) {
        const Floats deviation = load(map + row * channels + channel + kLanes * k) - first[k];
        sum[k] += deviation;
        square[k] += deviation * deviation;
      }
    for (int k = 0; k < K; k++) {
      const Floats mean = sum[k] / static_cast<float>(rows);
      store(means + channel + kLanes * k, first[k] + mean);
      store(squares + channel + kLanes * k, square[k] - sum[k] * mean);
    }
  }
};

// The gradient of z in a tile, and its sums: as it is, and times the deviation from the mean.
struct Gradients {
  const float *map, *gradient, *mean, *scale, *shift;
  int64_t rows, channels, gradient_step;
  float *of_norm, *sums, *products;

  template <int K>
  void run(int64_t channel) const {
    Floats sum[K], product[K], means[K], scales[K], shifts[K];
    for (int k = 0; k < K; k++) {
      const int64_t at = channel + kLanes * k;
      sum[k] = product[k] = fill(0);
      means[k] = load(mean + at);
      scales[k] = load(scale + at);
      shifts[k] = load(shift + at);
    }
    for (int64_t row = 0; row < rows; row++)
      for (int k = 0; k < K; k++) {
        const int64_t at = channel + kLanes * k;
        const Floats x = load(map + row * channels + at), z = x * scales[k] + shifts[k], gate = sigmoid(z);
        const Floats of_z = load(gradient + row * gradient_step + at) * (gate * (1.0f + z * (1.0f - gate)));
        store(of_norm + row * channels + at, of_z);
        sum[k] += of_z;
        product[k] += of_z * (x - means[k]);
      }
    for (int k = 0; k < K; k++) {
      store(sums + channel + kLanes * k, sum[k]);
      store(products + channel + kLanes * k, product[k]);
    }
  }
};

}  // namespace

extern "C" {

// Floats of scratch memory that `forward` and `backward` need.
int64_t scratch_of(int64_t rows, int64_t channels) {
  const int64_t tile = rows_of_tile(channels);
  return 2 * channels * ((rows + tile - 1) / tile + 1);
}

// y = SiLU(z), z = scale * x + shift = weight * (x - mean) / sqrt(variance + eps) + bias; moves the running statistics.
void forward(const float* x, const float* weight, const float* bias, float eps, float momentum, int64_t rows,
             int64_t channels, int threads, float* running_mean, float* running_variance, float* y, float* mean,
             float* inverse_deviation, float* scale, float* shift, float* scratch) {
  const int64_t tile = rows_of_tile(channels), tiles = (rows + tile - 1) / tile;
  const auto rows_in = [=](int64_t index) { return index == tiles - 1 ? rows - index * tile : tile; };
  float *means = scratch, *squares = scratch + tiles * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t index = 0; index < tiles; index++)
    for_channels(channels, Moments{x + index * tile * channels, rows_in(index), channels, means + index * channels,
                                   squares + index * channels});
  for (int64_t channel = 0; channel < channels; channel++) {
    double sum = 0, square = 0;
    for (int64_t index = 0; index < tiles; index++) sum += rows_in(index) * double(means[index * channels + channel]);
    const double centre = sum / rows;
    for (int64_t index = 0; index < tiles; index++) {
      const double away = means[index * channels + channel] - centre;
      square += squares[index * channels + channel] + rows_in(index) * away * away;
    }
    const double inverse = 1 / std::sqrt(square / rows + eps);
    mean[channel] = centre;
    inverse_deviation[channel] = inverse;
    scale[channel] = weight[channel] * inverse;
    shift[channel] = bias[channel] - centre * weight[channel] * inverse;
    running_mean[channel] += momentum * (centre - running_mean[channel]);
    running_variance[channel] += momentum * (square / (rows > 1 ? rows - 1 : 1) - running_variance[channel]);
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++)
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      const int64_t at = row * channels + channel;
      const Floats z = load(x + at) * load(scale + channel) + load(shift + channel);
      store(y + at, z * sigmoid(z));
    }
}

// Gradients of x, weight and bias. Rows of `gradient` lie `gradient_step` floats apart: it may be part of a wider map.
void backward(const float* x, const float* gradient, int64_t gradient_step, const float* mean,
              const float* inverse_deviation, const float* scale, const float* shift, int64_t rows, int64_t channels,
              int threads, float* of_x, float* of_weight, float* of_bias, float* scratch) {
  const int64_t tile = rows_of_tile(channels), tiles = (rows + tile - 1) / tile;
  float *sums = scratch, *products = sums + tiles * channels;
  float *slope = products + tiles * channels, *offset = slope + channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t index = 0; index < tiles; index++) {
    const int64_t first = index * tile, count = index == tiles - 1 ? rows - first : tile;
    for_channels(channels, Gradients{x + first * channels, gradient + first * gradient_step, mean, scale, shift, count,
                                     channels, gradient_step, of_x + first * channels, sums + index * channels,
                                     products + index * channels});
  }
  // of_x = scale * (of_z - mean(of_z) - normalized * mean(of_z * normalized)) = of_z * scale + x * slope + offset.
  for (int64_t channel = 0; channel < channels; channel++) {
    double sum = 0, product = 0;
    for (int64_t index = 0; index < tiles; index++) {
      sum += sums[index * channels + channel];
      product += products[index * channels + channel];
    }
    const double inverse = inverse_deviation[channel];
    of_bias[channel] = sum;
    of_weight[channel] = product * inverse;
    const double falling = -scale[channel] * inverse * inverse * product / rows;
    slope[channel] = falling;
    offset[channel] = -scale[channel] * sum / rows - mean[channel] * falling;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++)
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      const int64_t at = row * channels + channel;
      store(of_x + at, load(of_x + at) * load(scale + channel) + load(x + at) * load(slope + channel) +
                           load(offset + channel));
    }
}

}  // extern "C"
