// Score sums of many rows in one reading of them: see fused.py, which compiles this with
//
//   K, KP     components, and the next multiple of 4
//   C         columns of the features, (1, x)
//   BASE      1 if there is a log base measure, else 0
//   HALF      1 if the features are float16, else 0 for float32
//   R         rows of a tile
//   TC        columns that a thread adds up, for 8 weights
//   TILES     tiles of a thread block
//
// A block of 256 threads takes TILES tiles of R rows. Of each it
//   1. reads the features to shared memory, once, in the order in which they lie;
//   2. computes e = u exp(b + x.theta) and e n / lambda, 2 KP weights a row;
//   3. adds the outer products of weights and features, 8 x TC numbers a thread, the rows dealt
//      out to as many groups of threads as there are.
// Sums of some tiles in single precision are added to sums in double precision, all in an order
// that depends on the shape alone, and no two threads add to one number at a time.

#define THREADS 256
#define W (2 * KP)
#define CB (C + BASE)                 // with the log base measure as one more column
#define S (CB | 1)                    // odd, so that rows lie in different banks
#define WS (W + 4)
#define ACROSS (W / 8)
#define DOWN ((CB + TC - 1) / TC)
#define GROUP (ACROSS * DOWN)         // threads that hold all numbers once
#define GROUPS (THREADS / GROUP)
#define FLUSH 4                       // tiles that are added in single precision

static_assert(TILES % FLUSH == 0, "nothing is left in single precision at the end");

#if HALF
typedef unsigned short Stored;
#else
typedef float Stored;
#endif

#ifdef __CUDACC_RTC__
__device__ __forceinline__ float widen(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ __forceinline__ float widen(float value) { return value; }
#endif

// sums: for each thread block sum n log lambda, the rows with draws whose lambda vanished, and
// (2 KP, CB) sums of weights times columns.
extern "C" __global__ void __launch_bounds__(THREADS) score_rows(
    const Stored* __restrict__ features, const double* __restrict__ draws,
    const double* __restrict__ log_base, const float* __restrict__ coefficients,
    long long n_rows, float tiny, double* __restrict__ sums)
{
    extern __shared__ float4 memory[];
    float* ws = (float*)memory;       // (R, WS) weights
    float* cs = ws + R * WS;          // (C, KP) coefficients
    float* xs = cs + C * KP;          // (R, S) features
    const int thread = threadIdx.x;
    const int group = thread / GROUP, place = thread % GROUP;
    const int w0 = 8 * (place % ACROSS), c0 = TC * (place / ACROSS);
    const bool adds = group < GROUPS;

    for (int i = thread; i < C * KP; i += THREADS) cs[i] = coefficients[i];
    float some[8][TC];
    double all[8][TC];
    double log_density = 0, vanished = 0;
    for (int a = 0; a < 8; ++a)
        for (int b = 0; b < TC; ++b) { some[a][b] = 0; all[a][b] = 0; }

    for (int tile = 0; tile < TILES; ++tile) {
        const long long first = ((long long)blockIdx.x * TILES + tile) * R;
        const int rows = first >= n_rows ? 0 : n_rows - first < R ? (int)(n_rows - first) : R;
        if (rows == 0) break;         // of all threads alike
        __syncthreads();
        // 1. Features.
        for (int i = thread; i < R * C; i += THREADS) {
            const int row = i / C, column = i % C;
            xs[row * S + column] = row < rows ? widen(features[first * C + i]) : 0.0f;
        }
        __syncthreads();
        // 2. Weights: 4 components of a row at a time.
        for (int i = thread; i < R * (KP / 4); i += THREADS) {
            const int row = i % R, k0 = 4 * (i / R);
            float e[4] = {0, 0, 0, 0};
            if (row < rows) {
                for (int c = 0; c < C; ++c) {
                    const float x = xs[row * S + c];
                    const float4 t = *(const float4*)&cs[c * KP + k0];
                    e[0] += x * t.x; e[1] += x * t.y; e[2] += x * t.z; e[3] += x * t.w;
                }
                float base = 0;
                if (BASE) base = (float)log_base[first + row];
                for (int k = 0; k < 4; ++k) e[k] = k0 + k < K ? expf(e[k] + base) : 0.0f;
            }
            float4 stored;
            stored.x = e[0]; stored.y = e[1]; stored.z = e[2]; stored.w = e[3];
            *(float4*)&ws[row * WS + k0] = stored;
        }
        __syncthreads();
        for (int row = thread; row < R; row += THREADS) {
            float lambda = 0;
            for (int k = 0; k < K; ++k) lambda += ws[row * WS + k];
            const double n = row < rows ? draws[first + row] : 0.0;
            if (row < rows) {
                if (lambda <= tiny && n > 0) vanished += 1;
                lambda = fmaxf(lambda, tiny);
                log_density += n * (double)logf(lambda);
            }
            const float ratio = row < rows ? (float)n / lambda : 0.0f;
            for (int k = 0; k < KP; ++k) ws[row * WS + KP + k] = ws[row * WS + k] * ratio;
            if (BASE) {
                const float base = row < rows ? (float)log_base[first + row] : 0.0f;
                xs[row * S + C] = base >= -3e38f ? base : 0.0f;   // 0 where e is 0
            }
        }
        __syncthreads();
        // 3. Outer products.
        if (adds) {
            for (int row = group; row < R; row += GROUPS) {
                const float4 u = *(const float4*)&ws[row * WS + w0];
                const float4 v = *(const float4*)&ws[row * WS + w0 + 4];
                const float w[8] = {u.x, u.y, u.z, u.w, v.x, v.y, v.z, v.w};
                float x[TC];
                for (int b = 0; b < TC; ++b) x[b] = c0 + b < CB ? xs[row * S + c0 + b] : 0.0f;
                for (int a = 0; a < 8; ++a)
                    for (int b = 0; b < TC; ++b) some[a][b] += w[a] * x[b];
            }
            if (tile % FLUSH == FLUSH - 1 || first + R >= n_rows) {
                for (int a = 0; a < 8; ++a)
                    for (int b = 0; b < TC; ++b) { all[a][b] += some[a][b]; some[a][b] = 0; }
            }
        }
    }

    // The groups add what they have one after the other.
    double* own = sums + (long long)blockIdx.x * (2 + W * CB);
    for (int turn = 0; turn < GROUPS; ++turn) {
        __syncthreads();
        if (group == turn) {
            for (int a = 0; a < 8; ++a)
                for (int b = 0; b < TC; ++b)
                    if (c0 + b < CB) {
                        double* number = &own[2 + (w0 + a) * CB + c0 + b];
                        *number = turn ? *number + all[a][b] : all[a][b];
                    }
        }
    }
    // And the threads, by halves.
    double* pairs = (double*)memory;
    __syncthreads();
    pairs[thread] = log_density;
    pairs[THREADS + thread] = vanished;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (thread < half) {
            pairs[thread] += pairs[thread + half];
            pairs[THREADS + thread] += pairs[THREADS + thread + half];
        }
    }
    if (thread == 0) { own[0] = pairs[0]; own[1] = pairs[THREADS]; }
}
