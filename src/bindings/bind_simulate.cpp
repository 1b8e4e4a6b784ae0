#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "lower/work.hpp"
#include "machine/host/host_model.hpp"
#include "simulate/estimate.hpp"
#include "simulate/hbm_bytes.hpp"
#include "simulate/simulator.hpp"
#include "simulate/weave_planner.hpp"

namespace nb = nanobind;

namespace {

using terrazzo::CostModel;
using terrazzo::Instruction;
using terrazzo::LoweredStep;
using terrazzo::ModelShape;
using terrazzo::Segment;
using terrazzo::SimOptions;
using terrazzo::SimResult;
using terrazzo::StepLimits;
using terrazzo::StepRequest;
using terrazzo::TraceEvent;
using terrazzo::Work;
using terrazzo::bindings::Array1;
using terrazzo::bindings::StepArrays;

/// The programs of a step, without a machine to run them.
struct Programs {
  ModelShape shape;
  LoweredStep step;
  std::string order;  // as to_text(WeavePlan)
};

using Matrix = nb::ndarray<nb::numpy, double, nb::ndim<2>>;

Matrix to_matrix(std::vector<double> values, size_t cols) {
  const size_t rows = values.size() / cols;
  return Matrix(terrazzo::bindings::to_numpy(std::move(values), {rows, cols}));
}

nb::bytes to_bytes(const std::vector<TraceEvent>& events) {
  return nb::bytes(reinterpret_cast<const char*>(events.data()),
                   events.size() * sizeof(TraceEvent));
}

constexpr size_t kWorkColumns = 10;

/// A row for each instruction of a GPU: prologue, body, epilogue.
Matrix work_of(const Programs& programs, uint32_t gpu) {
  terrazzo::check(gpu < programs.step.gpus.size(), "work", "gpu ", gpu, " of ",
                  programs.step.gpus.size());
  const terrazzo::WorkTable table(programs.shape, programs.step.tables());
  std::vector<double> values;
  for (const auto& segment : programs.step.gpus[gpu].segments) {
    for (const Instruction& instruction : segment) {
      const Work work = table.of(instruction, gpu);
      for (const double value :
           {static_cast<double>(kind_of(instruction)), work.flops, work.tensor_flops,
            static_cast<double>(work.slots), static_cast<double>(work.stages),
            static_cast<double>(work.load_bytes), static_cast<double>(work.weight_bytes),
            static_cast<double>(work.kv_bytes), static_cast<double>(work.local_store_bytes),
            static_cast<double>(work.peer_store_bytes)}) {
        values.push_back(value);
      }
    }
  }
  return to_matrix(std::move(values), kWorkColumns);
}

/// What each instruction of a GPU waits for: "X[0..3] of the layer before, KV[2]".
std::vector<std::string> waits_of(const Programs& programs, uint32_t gpu) {
  terrazzo::check(gpu < programs.step.gpus.size(), "waits", "gpu ", gpu, " of ",
                  programs.step.gpus.size());
  const terrazzo::CounterMap& counters = programs.step.counters;
  std::vector<std::string> texts;
  for (const auto& segment : programs.step.gpus[gpu].segments) {
    for (const Instruction& instruction : segment) {
      std::string& text = texts.emplace_back();
      for (const terrazzo::Wait& wait : instruction.waits) {
        if (wait.count == 0) {
          continue;
        }
        const bool before = wait.first < 0;
        const auto first = static_cast<uint32_t>(
            before ? wait.first + static_cast<int32_t>(counters.size()) : wait.first);
        text += (text.empty() ? "" : ", ") + counters.name(first);
        if (wait.count > 1) {
          text += " to " + counters.name(first + wait.count - 1);
        }
        text += before ? " of the layer before" : "";
      }
    }
  }
  return texts;
}

/// Rows (instruction, first counter, count) of waits, or (instruction, counter, GPU mask) of
/// signals; counters relative to the block of the instruction's layer.
Matrix dependencies_of(const Programs& programs, uint32_t gpu, bool signals) {
  terrazzo::check(gpu < programs.step.gpus.size(), "dependencies", "gpu ", gpu, " of ",
                  programs.step.gpus.size());
  std::vector<double> values;
  double row = 0;
  for (const auto& segment : programs.step.gpus[gpu].segments) {
    for (const Instruction& instruction : segment) {
      for (const terrazzo::Wait& wait : instruction.waits) {
        if (!signals && wait.count != 0) {
          values.insert(values.end(),
                        {row, static_cast<double>(wait.first), static_cast<double>(wait.count)});
        }
      }
      for (const terrazzo::Signal& signal : instruction.signals) {
        for (int32_t i = 0; signals && i < signal.count; ++i) {
          values.insert(values.end(), {row, static_cast<double>(signal.first + i),
                                       static_cast<double>(signal.gpus)});
        }
      }
      row += 1;
    }
  }
  return to_matrix(std::move(values), 3);
}

nb::typed<nb::tuple, uint32_t, uint32_t, uint32_t> sizes_of(const Programs& programs,
                                                            uint32_t gpu) {
  terrazzo::check(gpu < programs.step.gpus.size(), "sizes", "gpu ", gpu, " of ",
                  programs.step.gpus.size());
  const terrazzo::ProgramView view = programs.step.view(gpu);
  return nb::make_tuple(view.prologue_size, view.body_size, view.epilogue_size);
}

terrazzo::WeavePlan plan_of(uint32_t split_block, uint32_t attention_percent) {
  const terrazzo::WeaveCurve curve = terrazzo::even_curve(attention_percent);
  return {split_block, {curve, curve}};
}

void bind_programs(nb::module_& m) {
  nb::class_<Programs>(m, "Programs", "The programs of a step, one a GPU, without a machine.")
      .def(
          "__init__",
          [](Programs* self, const ModelShape& shape, const StepLimits& limits,
             const StepArrays& arrays, uint32_t num_sms, uint32_t split_block,
             uint32_t attention_percent, const CostModel* woven_for, const std::string& order,
             const std::string& only) {
            const StepRequest request = arrays.request();
            terrazzo::LowerOptions options{num_sms, split_block != 0
                                                        ? plan_of(split_block, attention_percent)
                                                        : terrazzo::weave_plan_of(order)};
            if (woven_for != nullptr) {
              terrazzo::WeavePlanner planner(shape, limits, options, *woven_for);
              options.weave = planner.plan(request).plan;
            }
            LoweredStep step = terrazzo::lower(request, shape, limits, options);
            if (!only.empty()) {
              const terrazzo::Opcode opcode = terrazzo::opcode_named(only);
              terrazzo::keep_only(step, {&opcode, 1});
            }
            new (self) Programs{shape, std::move(step), to_text(options.weave)};
          },
          nb::arg("shape"), nb::arg("limits"), nb::arg("arrays"), nb::kw_only(), nb::arg("num_sms"),
          nb::arg("split_block") = 0, nb::arg("attention_percent") = 90,
          nb::arg("woven_for") = nb::none(), nb::arg("order") = "plain", nb::arg("only") = "",
          "With a split_block the order is woven; with woven_for it is the one that the simulator "
          "finds best for the device. `order` names an order as the property of that name does; "
          "`only` leaves instructions of one kind, without waits.")
      .def_ro("order", &Programs::order, "\"plain\", or split block and curves of the woven order.")
      .def_prop_ro("num_gpus", [](const Programs& self) { return self.step.gpus.size(); })
      .def_prop_ro("num_layers", [](const Programs& self) { return self.step.num_layers; })
      .def("sizes", &sizes_of, nb::arg("gpu"),
           "Instructions of the prologue, the body (of one layer) and the epilogue.")
      .def("work", &work_of, nb::arg("gpu"),
           "A row for each instruction: kind, FLOPs, FLOPs issued to the tensor cores, slots, "
           "stages, bytes loaded, of which weights, of which keys and values, bytes stored here, "
           "bytes stored on peers.")
      .def_prop_ro("counters_per_block",
                   [](const Programs& self) { return self.step.counters_per_block(); })
      .def("dependencies", &dependencies_of, nb::arg("gpu"), nb::arg("signals"),
           "Waits as rows (instruction, first counter, count) or signals as rows (instruction, "
           "counter, GPU mask); counters are relative to the block of the instruction's layer.")
      .def("waits", &waits_of, nb::arg("gpu"), "What each instruction waits for, as a text.");
}

void bind_cost_model(nb::module_& m) {
  nb::class_<CostModel>(m, "CostModel", "Times and capacities of a device, for the simulator.")
      .def(nb::init<>())
      .def("set", &CostModel::set, nb::arg("name"), nb::arg("value"))
      .def("get", &CostModel::get, nb::arg("name"))
      .def_static("fields", &CostModel::fields, "The names of all values.");
  m.def("opcode_names", [] {
    return std::vector<std::string>(std::begin(terrazzo::kOpcodeNames),
                                    std::end(terrazzo::kOpcodeNames));
  });
  m.def(
      "kind_names",
      [] {
        std::vector<std::string> names;
        for (uint32_t kind = 0; kind < terrazzo::kNumKinds; ++kind) {
          names.push_back(terrazzo::kind_name(kind));
        }
        return names;
      },
      "Names of the kinds of instructions, by number; empty where a number is not in use.");
}

/// A planner that several threads may ask.
struct OrderPlanner {
  terrazzo::WeavePlanner planner;
  std::mutex mutex;
};

void bind_order_planner(nb::module_& m) {
  nb::class_<OrderPlanner>(m, "OrderPlanner",
                           "Finds orders of steps by simulation, once for each class of steps.")
      .def(
          "__init__",
          [](OrderPlanner* self, const ModelShape& shape, const StepLimits& limits,
             const CostModel& costs,
             uint32_t num_sms) { new (self) OrderPlanner{{shape, limits, {num_sms}, costs}, {}}; },
          nb::arg("shape"), nb::arg("limits"), nb::arg("costs"), nb::kw_only(), nb::arg("num_sms"))
      .def(
          "plan",
          [](OrderPlanner& self, const StepArrays& arrays) {
            const nb::gil_scoped_release release;
            const std::lock_guard lock(self.mutex);
            return self.planner.plan(arrays.request()).plan;
          },
          nb::arg("arrays"),
          "The order of the step's class. Finding it takes 1 to 3 s for an 8B model on one GPU and "
          "22 s for a 70B on 8; it raises Error for a step that the limits do not allow, and where "
          "the simulator makes no progress with these costs.")
      .def_prop_ro(
          "num_classes",
          [](OrderPlanner& self) {
            const nb::gil_scoped_release release;  // whoever plans holds the mutex for seconds
            const std::lock_guard lock(self.mutex);
            return self.planner.num_classes();
          },
          "Classes whose order is known.");
}

}  // namespace

void bind_simulate(nb::module_& m) {
  bind_programs(m);
  bind_cost_model(m);
  bind_order_planner(m);
  m.def(
      "simulate",
      [](const Programs& programs, const CostModel& model, uint32_t num_sms, uint32_t layers,
         bool trace, double tolerance) {
        SimResult result;
        {
          const nb::gil_scoped_release release;
          result = terrazzo::simulate(
              programs.step, programs.shape, model,
              {.num_sms = num_sms, .layers = layers, .trace = trace, .tolerance = tolerance});
        }
        std::vector<double> totals;
        for (const terrazzo::SimTotals& gpu : result.totals) {
          totals.insert(totals.end(),
                        {gpu.hbm_bytes, gpu.l2_bytes, gpu.tensor_flops, gpu.peer_bytes});
        }
        return nb::make_tuple(result.step_ns, to_matrix(std::move(totals), 4),
                              to_bytes(result.events));
      },
      nb::sig("def simulate(programs: Programs, model: CostModel, *, num_sms: int = 0, "
              "layers: int = 0, trace: bool = False, tolerance: float = 0.02) -> tuple[float, "
              "Annotated[NDArray[numpy.float64], dict(shape=(None, None))], bytes]"),
      nb::arg("programs"), nb::arg("model"), nb::kw_only(), nb::arg("num_sms") = 0,
      nb::arg("layers") = 0, nb::arg("trace") = false, nb::arg("tolerance") = 0.02,
      "(time of the step in ns; a row for each GPU: bytes from HBM, bytes into the rings, FLOPs "
      "issued, bytes to peers; trace events as bytes: records of core/trace_event.hpp). 0 SMs: "
      "as many as the model says; 0 layers: all.");
  m.def(
      "estimate",
      [](const Programs& programs, const CostModel& model, uint32_t num_sms, double guess) {
        const nb::gil_scoped_release release;
        const terrazzo::StepEstimate found =
            terrazzo::estimate(programs.step, programs.shape, model, num_sms, guess);
        return std::pair(found.step_ns, found.clock);
      },
      nb::arg("programs"), nb::arg("model"), nb::arg("num_sms") = 0, nb::arg("guess") = 1.0,
      "(time of the step in ns, clock of the SMs in parts of their highest) from a few layers. 0 "
      "SMs: as many as the model says. The clock is searched from `guess` on.");
  m.def(
      "hbm_bytes",
      [](const Programs& programs, const CostModel& model, uint32_t gpu,
         const Array1<uint32_t>& positions, const Array1<double>& begin_ns,
         const Array1<double>& end_ns) {
        terrazzo::check(begin_ns.size() == positions.size() && end_ns.size() == positions.size(),
                        "hbm bytes", "expected as many times as positions");
        std::vector<terrazzo::LoadTime> loads;
        for (size_t i = 0; i < positions.size(); ++i) {
          loads.push_back({positions.data()[i], begin_ns.data()[i], end_ns.data()[i]});
        }
        return to_matrix(terrazzo::hbm_bytes(programs.step, programs.shape, model, gpu, loads), 1);
      },
      nb::arg("programs"), nb::arg("model"), nb::arg("gpu"), nb::arg("positions"),
      nb::arg("begin_ns"), nb::arg("end_ns"),
      "Bytes from HBM of instructions, by queue position in the order of their loads' begins: "
      "[n, 1].");
  m.def(
      "trace_host_step",
      [](terrazzo::host::HostModel& model, const StepArrays& arrays) {
        struct Tracing {
          terrazzo::host::HostMachine& machine;
          ~Tracing() { machine.set_trace(false); }
        } const tracing{model.machine()};
        model.machine().set_trace(true);
        {
          const nb::gil_scoped_release release;
          model.step(arrays.request());
        }
        return to_bytes(model.machine().events());
      },
      nb::arg("model"), nb::arg("arrays"),
      "Runs a step on the host machine; its trace events as bytes: records of "
      "core/trace_event.hpp.");
}
