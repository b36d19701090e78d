// A model folder's weights: whatever index and shards say, a tensor that can be seen lies within
// its file, has the bytes its shape needs, and shares them with no other.

#include "worker/model/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/check.h"
#include "common/strings.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "worker/model/safetensors.h"

namespace fathom::worker {
namespace {

constexpr int kShardsMax = 4;

// A folder in memory where there is one, for this process.
const std::string& Folder() {
  static const auto& folder = *new std::string([] {
    const bool in_memory = access("/dev/shm", W_OK) == 0;
    std::string path = in_memory ? "/dev/shm/fathom-fuzz-XXXXXX" : "/tmp/fathom-fuzz-XXXXXX";
    FATHOM_CHECK(mkdtemp(path.data()) != nullptr, "no folder to work in");
    static std::string kept;
    kept = path;
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(kept, ignored);
    });
    return path;
  }());
  return folder;
}

void Write(const std::string& name, std::string_view bytes) {
  std::ofstream(Folder() + "/" + name, std::ios::binary | std::ios::trunc) << bytes;
}

// A number that is added to the true length of the header, the header up to a line `#`, the data.
std::string FileOf(std::string_view section) {
  fuzz::Input input(reinterpret_cast<const uint8_t*>(section.data()), section.size());
  int64_t off = 0;
  if (!absl::SimpleAtoi(ToAbsl(input.Line()), &off)) off = 0;
  const std::string_view header = input.Section("#");
  const uint64_t length = header.size() + static_cast<uint64_t>(off);
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file.append(header).append(input.Rest());
}

void CheckFile(const std::string& path) {
  const auto file = SafetensorsFile::Open(path);
  fuzz::CheckSound(0, file.status());
  if (!file.ok()) return;
  struct stat info = {};
  FATHOM_CHECK(stat(path.c_str(), &info) == 0, "the file is gone");
  std::vector<std::pair<const char*, size_t>> extents;
  size_t total = 0;
  for (const auto& [name, view] : (*file)->tensors()) {
    const auto* data = static_cast<const char*>(view.data);
    extents.emplace_back(data, view.NumBytes());
    total += view.NumBytes();
    // Touched, so that a view outside the mapping is a fault.
    uint8_t sum = 0;
    for (size_t i = 0; i < view.NumBytes(); ++i) sum = static_cast<uint8_t>(sum + data[i]);
    fuzz::Reached(sum % 2);
  }
  FATHOM_CHECK(total < static_cast<size_t>(info.st_size), "tensors larger than their file");
  std::sort(extents.begin(), extents.end());
  for (size_t i = 1; i < extents.size(); ++i) {
    FATHOM_CHECK(extents[i - 1].first + extents[i - 1].second <= extents[i].first ||
                     extents[i].second == 0 || extents[i - 1].second == 0,
                 "tensors overlap");
  }
}

}  // namespace

// Sections that end with a line `===`: the index, nothing for none, then a.safetensors and so on;
// without an index the first shard is model.safetensors.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(Folder(), ignored)) {
    std::filesystem::remove(entry.path(), ignored);
  }
  fuzz::Input input(data, size);
  const std::string_view index = input.Section("===");
  if (!index.empty()) Write("model.safetensors.index.json", index);
  for (int i = 0; i < kShardsMax && !input.Rest().empty(); ++i) {
    std::string name =
        index.empty() && i == 0 ? "model" : std::string(1, static_cast<char>('a' + i));
    name += ".safetensors";
    Write(name, FileOf(input.Section("===")));
    CheckFile(Folder() + "/" + name);
  }
  const auto checkpoint = Checkpoint::Open(Folder());
  fuzz::CheckSound(1, checkpoint.status());
  if (!checkpoint.ok()) return 0;
  for (const char* name : {"a", "b", "model.embed_tokens.weight"}) {
    const auto view = checkpoint->Find(name);
    FATHOM_CHECK(view.ok() == checkpoint->Has(name), "found and not there");
    if (view.ok()) FATHOM_CHECK(!checkpoint->FileOf(name).empty(), "of no file");
  }
  return 0;
}

}  // namespace fathom::worker
