// How near our linear kernels come to the memory's read rate, beside cuBLASLt, in CUDA graphs over
// cold weights.
//
//   fathom-gpu-linear-bench [--m 1,2,4] [--shapes 8b|7b|70b|all] [--sweep] [--quick] [--json FILE]

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <tuple>

#include "benchmarks/gpu/linear_workload.h"

namespace fathom::benchmarks {
namespace {

using kernels::cuda::CompleteSkinnyPlan;
using kernels::cuda::IsValidSkinnyPlan;
using kernels::cuda::PlanSkinny;
using kernels::cuda::PlanWide;
using kernels::cuda::SkinnyPlan;
using kernels::cuda::SkinnyShapeOf;
using kernels::cuda::WidePlan;

constexpr char kUsage[] =
    "fathom-gpu-linear-bench: our linear kernels against the memory's read rate and cuBLASLt\n"
    "  --m LIST       counts of tokens, default 1,2,4,8,16,32,64,128,256\n"
    "  --shapes SET   8b (default), 7b, 70b or all\n"
    "  --sweep        also try other plans of the skinny kernel and print the best\n"
    "  --no-shapes    the chain of an 8B model alone\n"
    "  --no-chain     the shapes alone\n"
    "  --quick        a model of 8 layers instead of 32, and shorter graphs\n"
    "  --json FILE    all figures as JSON, one object a line within an array\n"
    "  --help\n";

struct Options {
  std::vector<int32_t> tokens = {1, 2, 4, 8, 16, 32, 64, 128, 256};
  std::string shapes = "8b";
  std::string json;
  bool sweep = false;
  bool quick = false;
  bool chain = true;
  bool each_shape = true;
};

class Report {
 public:
  explicit Report(const std::string& path) {
    if (path.empty()) return;
    file_ = std::fopen(path.c_str(), "w");
    if (file_ == nullptr) {
      std::fprintf(stderr, "cannot write %s\n", path.c_str());
      std::exit(1);
    }
    std::fputs("[\n", file_);
  }
  ~Report() {
    if (file_ == nullptr) return;
    std::fputs("\n]\n", file_);
    std::fclose(file_);
  }
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void Add(const std::string& object) {
    if (file_ == nullptr) return;
    std::fprintf(file_, "%s%s", first_ ? "" : ",\n", object.c_str());
    first_ = false;
    std::fflush(file_);
  }

 private:
  std::FILE* file_ = nullptr;
  bool first_ = true;
};

// The modes that take so many tokens.
std::vector<Mode> ModesFor(int32_t tokens) {
  std::vector<Mode> modes;
  if (tokens <= kernels::cuda::kSkinnyRowsMax) modes = {Mode::kProgrammatic, Mode::kSerial};
  if (tokens <= kernels::cuda::kWideRowsMax) modes.push_back(Mode::kWide);
  modes.push_back(Mode::kLibrary);
  return modes;
}

const char* NameOf(Mode mode) {
  switch (mode) {
    case Mode::kSerial:
      return "serial";
    case Mode::kProgrammatic:
      return "programmatic";
    case Mode::kWide:
      return "wide";
    case Mode::kLibrary:
      return "cublaslt";
  }
  return "?";
}

std::string Describe(const SkinnyPlan& plan) {
  std::ostringstream out;
  out << "rows " << plan.tile_rows << " boxes " << plan.boxes << " stages " << plan.stages
      << " blocks " << plan.blocks << (plan.split ? " split" : " whole");
  return out.str();
}

std::string Describe(const WidePlan& plan) {
  std::ostringstream out;
  out << "rows " << plan.tile_rows << " splits " << plan.splits << " stages " << plan.stages
      << " clusters " << plan.clusters;
  return out.str();
}

std::string PlanOf(const Shape& shape, int32_t tokens, Mode mode, int32_t num_multiprocessors) {
  switch (mode) {
    case Mode::kSerial:
    case Mode::kProgrammatic:
      return Describe(PlanSkinny(tokens, shape.n, shape.k, num_multiprocessors));
    case Mode::kWide:
      return Describe(PlanWide(tokens, shape.n, shape.k, num_multiprocessors));
    case Mode::kLibrary:
      break;
  }
  return "";
}

std::string Json(const std::string& kind, const Shape& shape, int32_t tokens,
                 const std::string& mode, double seconds, double bytes, double rate,
                 const std::string& plan) {
  std::ostringstream out;
  out << R"({"kind": ")" << kind << R"(", "model": ")" << shape.model << R"(", "name": ")"
      << shape.name << R"(", "n": )" << shape.n << R"(, "k": )" << shape.k << R"(, "m": )" << tokens
      << R"(, "mode": ")" << mode << R"(", "us": )" << seconds * 1e6 << R"(, "gb_s": )"
      << bytes / seconds * 1e-9 << R"(, "of_read": )" << bytes / seconds * 1e-9 / rate
      << R"(, "plan": ")" << plan << R"("})";
  return out.str();
}

void RunChain(LinearWorkload& work, const Options& options, double rate, Report& report) {
  std::printf("\nchain of an 8B model, %.2f GB\n%4s %-13s %9s %7s %7s\n", work.ChainBytes() * 1e-9,
              "m", "mode", "ms", "GB/s", "% read");
  for (const int32_t tokens : options.tokens) {
    for (const Mode mode : ModesFor(tokens)) {
      const double seconds = work.TimeChain(tokens, mode);
      const double reached = work.ChainBytes() / seconds * 1e-9;
      std::printf("%4d %-13s %9.3f %7.0f %7.1f\n", tokens, NameOf(mode), seconds * 1e3, reached,
                  100 * reached / rate);
      std::fflush(stdout);
      report.Add(Json("chain", {"8b", "chain"}, tokens, NameOf(mode), seconds, work.ChainBytes(),
                      rate, ""));
    }
    const ChainFusion all = {.norm = true, .gated = true, .residual = true};
    const std::tuple<const char*, Mode, int32_t> fused[] = {
        {"fused", Mode::kProgrammatic, kernels::cuda::kSkinnyFusedRowsMax},
        {"wide, fused", Mode::kWide, kernels::cuda::kWideRowsMax}};
    for (const auto& [name, mode, rows_max] : fused) {
      if (tokens > rows_max) continue;
      const double seconds = work.TimeChain(tokens, mode, all);
      const double reached = work.ChainBytes() / seconds * 1e-9;
      std::printf("%4d %-13s %9.3f %7.0f %7.1f\n", tokens, name, seconds * 1e3, reached,
                  100 * reached / rate);
      std::fflush(stdout);
      report.Add(
          Json("chain", {"8b", "chain"}, tokens, name, seconds, work.ChainBytes(), rate, ""));
    }
  }
}

bool RunShapes(LinearWorkload& work, const Options& options, const std::vector<Shape>& shapes,
               double rate, Report& report) {
  const double bytes = options.quick ? 1.5e9 : 4e9;
  bool right = true;
  std::printf("\n%-4s %-8s %4s %-13s %9s %7s %7s %8s\n", "", "", "m", "mode", "us", "GB/s",
              "% read", "error");
  for (const Shape& shape : shapes) {
    for (const int32_t tokens : options.tokens) {
      for (const Mode mode : ModesFor(tokens)) {
        const double seconds = work.TimeShape(shape, tokens, mode, nullptr, bytes, 9);
        const double reached = shape.Bytes() / seconds * 1e-9;
        const double error = work.Error(shape, tokens, mode);
        std::printf("%-4s %-8s %4d %-13s %9.2f %7.0f %7.1f %8.1e%s\n", shape.model.c_str(),
                    shape.name.c_str(), tokens, NameOf(mode), seconds * 1e6, reached,
                    100 * reached / rate, error, error < 0.01 ? "" : " WRONG");
        std::fflush(stdout);
        report.Add(Json("shape", shape, tokens, NameOf(mode), seconds, shape.Bytes(), rate,
                        PlanOf(shape, tokens, mode, work.num_multiprocessors())));
        right = right && error < 0.01;
      }
    }
  }
  return right;
}

// Alternatives of a plan, one aspect at a time, each from the best so far.
class Sweep {
 public:
  Sweep(LinearWorkload& work, const Shape& shape, int32_t tokens, double rate)
      : work_(work), shape_(shape), tokens_(tokens), rate_(rate) {
    best_ = PlanSkinny(tokens, shape.n, shape.k, work.num_multiprocessors());
    default_seconds_ = best_seconds_ = Time(best_);
  }

  void Run() {
    const int32_t max_rows = SkinnyShapeOf(tokens_).MaxTileRows();
    for (const bool split : {false, true}) {
      for (int32_t tile_rows = 8; tile_rows <= max_rows; tile_rows += 8) {
        // Of the many heights close to each other, those that cut the rows evenly.
        const int32_t tiles = (shape_.n + tile_rows - 1) / tile_rows;
        const int32_t blocks = work_.num_multiprocessors();
        const double waves = std::ceil(static_cast<double>(tiles) / blocks);
        if (split ? tile_rows % 16 != 0 : tiles / (waves * blocks) < 0.8 && tiles > blocks / 2) {
          continue;
        }
        Try({.tile_rows = tile_rows, .split = split});
      }
    }
    for (const int32_t boxes : {1, 2, 4, 8, 16}) {
      SkinnyPlan plan = best_;
      plan.boxes = boxes;
      plan.stages = 0;
      Try(plan);
    }
    const int32_t full = best_.stages;
    for (const int32_t stages : {full - 1, full - 2, full / 2}) {
      SkinnyPlan plan = best_;
      plan.stages = stages;
      if (stages > 0) Try(plan);
    }
  }

  void Print(Report& report) const {
    const double now = shape_.Bytes() / default_seconds_ * 1e-9;
    const double then = shape_.Bytes() / best_seconds_ * 1e-9;
    std::printf("%-4s %-8s %4d | %5.0f %5.1f | %5.0f %5.1f | %s (%d tried)\n", shape_.model.c_str(),
                shape_.name.c_str(), tokens_, now, 100 * now / rate_, then, 100 * then / rate_,
                Describe(best_).c_str(), tried_);
    std::fflush(stdout);
    for (const std::string& line : lines_) report.Add(line);
    report.Add(Json("sweep_best", shape_, tokens_, "programmatic", best_seconds_, shape_.Bytes(),
                    rate_, Describe(best_)));
  }

 private:
  double Time(const SkinnyPlan& plan) {
    return work_.TimeShape(shape_, tokens_, Mode::kProgrammatic, &plan, 1.5e9, 5);
  }
  void Try(SkinnyPlan plan) {
    plan = CompleteSkinnyPlan(plan, tokens_, shape_.n, shape_.k, work_.num_multiprocessors());
    if (!IsValidSkinnyPlan(plan, tokens_, shape_.n, shape_.k)) return;
    const double seconds = Time(plan);
    ++tried_;
    lines_.push_back(Json("sweep", shape_, tokens_, "programmatic", seconds, shape_.Bytes(), rate_,
                          Describe(plan)));
    // A plan must win by more than the noise to replace one.
    if (seconds < 0.995 * best_seconds_) {
      best_seconds_ = seconds;
      best_ = plan;
    }
  }

  LinearWorkload& work_;
  const Shape shape_;
  const int32_t tokens_;
  const double rate_;
  SkinnyPlan best_;
  double best_seconds_ = 0;
  double default_seconds_ = 0;
  int tried_ = 0;
  std::vector<std::string> lines_;
};

void RunSweep(LinearWorkload& work, const Options& options, const std::vector<Shape>& shapes,
              double rate, Report& report) {
  std::printf("\nsweep\n%-4s %-8s %4s | plan's GB/s, %% | best GB/s, %% | best plan\n", "", "",
              "m");
  for (const Shape& shape : shapes) {
    for (const int32_t tokens : options.tokens) {
      if (tokens > kernels::cuda::kSkinnyRowsMax) continue;
      Sweep sweep(work, shape, tokens, rate);
      sweep.Run();
      sweep.Print(report);
    }
  }
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 < argc) return argv[++i];
      std::fputs(kUsage, stderr);
      std::exit(2);
    };
    if (option == "--m") {
      options.tokens.clear();
      std::istringstream list(value());
      for (std::string item; std::getline(list, item, ',');) {
        options.tokens.push_back(
            std::clamp(std::atoi(item.c_str()), 1, static_cast<int>(LinearWorkload::kMaxTokens)));
      }
    } else if (option == "--shapes") {
      options.shapes = value();
    } else if (option == "--json") {
      options.json = value();
    } else if (option == "--sweep") {
      options.sweep = true;
    } else if (option == "--quick") {
      options.quick = true;
    } else if (option == "--no-chain") {
      options.chain = false;
    } else if (option == "--no-shapes") {
      options.each_shape = false;
    } else {
      std::fputs(kUsage, option == "--help" ? stdout : stderr);
      std::exit(option == "--help" ? 0 : 2);
    }
  }
  return options;
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  const std::vector<Shape> shapes = ShapesOf(options.shapes);
  if (shapes.empty()) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  Report report(options.json);
  LinearWorkload work(options.quick ? 8 : 32, shapes);
  const double rate = work.ReadRate();
  std::printf("%s, %d multiprocessors, reads %.0f GB/s\n", work.device().c_str(),
              work.num_multiprocessors(), rate);
  report.Add(R"({"kind": "device", "name": ")" + work.device() + R"(", "read_gb_s": )" +
             std::to_string(rate) + "}");
  if (options.chain) RunChain(work, options, rate, report);
  const bool right = !options.each_shape || RunShapes(work, options, shapes, rate, report);
  if (options.sweep) RunSweep(work, options, shapes, rate, report);
  return right ? 0 : 1;
}

}  // namespace
}  // namespace fathom::benchmarks

int main(int argc, char** argv) { return fathom::benchmarks::Main(argc, argv); }
