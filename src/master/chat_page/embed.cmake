# cmake -DOUT=page_files.cc -DFILES=a|b -P embed.cmake: writes the source that holds the page's files. Run by the build when
# one of them changes.

string(REPLACE "|" ";" files "${FILES}")
set(text "// Written by embed.cmake.\n\n#include \"master/chat_page/page_files.h\"\n\n")
string(APPEND text "namespace fathom::master {\n\nusing std::string_view_literals::operator\"\"sv;\n\n")
string(APPEND text "const std::vector<PageFile>& PageFiles() {\n  static const std::vector<PageFile> files{\n")
foreach(path IN LISTS files)
  get_filename_component(name "${path}" NAME)
  file(READ "${path}" hex HEX)
  file(SHA256 "${path}" digest)
  # Every byte is an escape, so that none can swallow the next.
  string(REGEX REPLACE "(..)" "\\\\x\\1" bytes "${hex}")
  string(APPEND text "      {\"${name}\"sv, \"${bytes}\"sv, \"${digest}\"sv},\n")
endforeach()
string(APPEND text "  };\n  return files;\n}\n\n}  // namespace fathom::master\n")
file(WRITE "${OUT}" "${text}")
