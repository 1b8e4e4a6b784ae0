// What does it cost to claim, fetch and hand over an instruction, and how long is one atomic?
#include "probe.cuh"

namespace {

using namespace probe;

constexpr int kInstructionWords = 32;  // 128 bytes
constexpr int kInstructions = 1 << 21;
constexpr uint32_t kStop = 0xFFFFFFFFu;

enum class Fetch { kWarpLoads, kBulkCopy };

struct Params {
    const uint32_t* program;  // [count][kInstructionWords]
    uint32_t count;
    uint32_t* head;           // queue head
    unsigned long long* sum;  // of all words executed
    int work_cycles;          // the consumer is busy so long per instruction
};

// Claims ahead: kRing instructions may be claimed and unfinished. kEarly: the next claim is under
// way while this instruction is fetched (one more instruction claimed).
template <int kRing, Fetch kFetch, bool kEarly>
__global__ void __launch_bounds__(64, 1) claim_loop(const __grid_constant__ Params params) {
    __shared__ __align__(128) uint32_t ring[kRing][kInstructionWords];
    __shared__ uint32_t positions[kRing];
    __shared__ uint64_t full[kRing];
    __shared__ uint64_t empty[kRing];
    if (threadIdx.x == 0) {
        for (int i = 0; i < kRing; ++i) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 1);
        }
        fence_barrier_init();
    }
    __syncthreads();
    int lane = threadIdx.x % 32;
    int slot = 0;
    uint32_t phase = 0;
    auto advance = [&] {
        if (++slot == kRing) {
            slot = 0;
            phase ^= 1;
        }
    };
    if (threadIdx.x < 32) {  // controller
        auto claim = [&] { return lane == 0 ? atomicAdd(params.head, 1u) : 0u; };
        uint32_t next = kEarly ? claim() : 0;
        while (true) {
            mbarrier_wait(&empty[slot], phase ^ 1);
            uint32_t position = __shfl_sync(~0u, kEarly ? next : claim(), 0);
            bool stop = position >= params.count;
            if (kEarly && !stop) next = claim();
            if (lane == 0) positions[slot] = stop ? kStop : position;
            const uint32_t* source = params.program + size_t(position) * kInstructionWords;
            if (stop) {
                if (lane == 0) mbarrier_arrive(&full[slot]);
                break;
            }
            if constexpr (kFetch == Fetch::kWarpLoads) {
                ring[slot][lane] = __ldcg(source + lane);
                __syncwarp();
                if (lane == 0) mbarrier_arrive(&full[slot]);
            } else if (lane == 0) {
                mbarrier_expect(&full[slot], kInstructionWords * 4);
                bulk_load_async(ring[slot], source, kInstructionWords * 4, &full[slot]);
            }
            __syncwarp();
            advance();
        }
    } else {
        unsigned long long sum = 0;
        while (true) {
            mbarrier_wait(&full[slot], phase);
            if (positions[slot] == kStop) break;
            long long begin = clock64();
            sum += ring[slot][lane];
            while (params.work_cycles && clock64() - begin < params.work_cycles) {
            }
            __syncwarp();
            if (lane == 0) mbarrier_arrive(&empty[slot]);
            advance();
        }
        atomicAdd(params.sum, sum);
    }
}

// Dependent chain of one operation by one lane of each block; mean cycles of block 0.
enum class Chain { kAtomic, kLoad, kSharedCounter };

template <Chain kChain>
__global__ void chain_latency(uint32_t* memory, int length, uint32_t* cycles) {
    uint32_t value = 0;
    uint32_t* own = kChain == Chain::kSharedCounter ? memory : memory + 64 * (1 + blockIdx.x);
    long long begin = clock64();
    for (int i = 0; i < length; ++i) {
        if (kChain == Chain::kLoad) {
            asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                         : "=r"(value)
                         : "l"(own + (value & 1))
                         : "memory");
        } else {
            value = atomicAdd(own, 1 + (value >> 31));
        }
    }
    cycles[blockIdx.x] = uint32_t((clock64() - begin) / length);
}

__global__ void clock_rate(long long* result) {
    uint64_t t0, t1;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t0));
    long long c0 = clock64();
    do {
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t1));
    } while (t1 - t0 < 20'000'000);
    result[0] = clock64() - c0;
    result[1] = (long long)(t1 - t0);
}

double cycles_per_ns() {
    long long* pointer = device_array<long long>(2);
    clock_rate<<<1, 1>>>(pointer);
    finish("clock_rate");
    auto values = to_host(pointer, 2);
    return double(values[0]) / double(values[1]);
}

template <int kRing, Fetch kFetch, bool kEarly>
void measure(const char* name, Params params, unsigned long long expected, int sms, double ghz) {
    for (int work_ns : {0, 1000}) {
        params.work_cycles = int(work_ns * ghz);
        params.count = work_ns ? kInstructions / 8 : kInstructions;
        auto launch = [&] {
            PROBE_CHECK(cudaMemsetAsync(params.head, 0, 4));
            PROBE_CHECK(cudaMemsetAsync(params.sum, 0, 8));
            claim_loop<kRing, kFetch, kEarly><<<sms, 64>>>(params);
        };
        double seconds = median_seconds(3, launch);
        double each = seconds * 1e9 * sms / params.count;
        bool right = work_ns || to_host(params.sum, 1)[0] == expected;
        std::printf("%-44s %5d ns work  %7.1f ns an instruction and SM  overhead %6.1f  %s\n", name,
                    work_ns, each, each - work_ns, right ? "sum right" : "SUM WRONG");
    }
}

}  // namespace

int main() {
    Device device = open_device();
    double ghz = cycles_per_ns();
    std::printf("# SM clock %.3f GHz\n", ghz);
    std::vector<uint32_t> program(size_t(kInstructions) * kInstructionWords);
    unsigned long long expected = 0;
    for (size_t i = 0; i < program.size(); ++i) {
        program[i] = uint32_t(i * 2654435761u);
        expected += program[i];
    }
    Params params{to_device(program), kInstructions, device_array<uint32_t>(64),
                  device_array<unsigned long long>(1), 0};

    uint32_t* cycles = device_array<uint32_t>(device.sm_count);
    uint32_t* memory = device_array<uint32_t>(64 * 1024);
    std::printf("\n## latency of one operation, one lane, dependent chain (ns, block 0 / slowest)\n");
    auto chain = [&](const char* name, auto* kernel, int blocks) {
        PROBE_CHECK(cudaMemset(memory, 0, 64 * 1024 * 4));
        for (int i = 0; i < 2; ++i) {
            kernel<<<blocks, 1>>>(memory, 2000, cycles);
            finish(name);
        }
        auto all = to_host(cycles, blocks);
        std::printf("%-44s %4d SMs  %7.0f / %.0f\n", name, blocks, all[0] / ghz,
                    *std::max_element(all.begin(), all.end()) / ghz);
    };
    for (int blocks : {1, device.sm_count}) {
        chain("load, relaxed, own line", chain_latency<Chain::kLoad>, blocks);
        chain("atomic add, own line", chain_latency<Chain::kAtomic>, blocks);
        chain("atomic add, one counter for all", chain_latency<Chain::kSharedCounter>, blocks);
    }

    std::printf("\n## claim + fetch + hand-over, %d SMs\n", device.sm_count);
    constexpr auto W = Fetch::kWarpLoads;
    constexpr auto B = Fetch::kBulkCopy;
    int sms = device.sm_count;
    measure<1, W, false>("depth 1, warp loads", params, expected, sms, ghz);
    measure<1, B, false>("depth 1, bulk copy", params, expected, sms, ghz);
    measure<1, W, true>("depth 1 + early claim, warp loads", params, expected, sms, ghz);
    measure<2, W, false>("depth 2, warp loads", params, expected, sms, ghz);
    measure<2, B, false>("depth 2, bulk copy", params, expected, sms, ghz);
    measure<2, W, true>("depth 2 + early claim, warp loads", params, expected, sms, ghz);
    measure<4, B, false>("depth 4, bulk copy", params, expected, sms, ghz);
    measure<4, B, true>("depth 4 + early claim, bulk copy", params, expected, sms, ghz);
    return 0;
}
