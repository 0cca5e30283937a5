# subbyte_add_arch_library(<name> ARCH <arch> SOURCES <file>... [LINK <target>...])
#
# An object library compiled for one of subbyte's arch tags, to be linked into a program beside the
# same sources compiled for others; the program asks the CPU which of them to call. Define the name
# of the functions yourself, once per library, and pass pointers, sizes and spans across only: the
# standard library's inline functions carry no flags in their names (examples/runtime_dispatch).
#
# SUBBYTE_ARCHS lists the archs of the processor that is compiled for, the widest last; another is an
# error. SUBBYTE_FLAGS_<arch> holds the flags.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(SUBBYTE_ARCHS scalar avx2 avx_vnni avx512 avx512_vnni avx512_bf16 amx)
  set(SUBBYTE_FLAGS_scalar "")
  set(SUBBYTE_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(SUBBYTE_FLAGS_avx_vnni ${SUBBYTE_FLAGS_avx2} -mavxvnni)
  set(SUBBYTE_FLAGS_avx512 ${SUBBYTE_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
  set(SUBBYTE_FLAGS_avx512_vnni ${SUBBYTE_FLAGS_avx512} -mavx512vnni)
  set(SUBBYTE_FLAGS_avx512_bf16 ${SUBBYTE_FLAGS_avx512_vnni} -mavx512bf16)
  set(SUBBYTE_FLAGS_amx ${SUBBYTE_FLAGS_avx512_bf16} -mamx-tile -mamx-int8 -mamx-bf16)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(SUBBYTE_ARCHS neon neon_dot neon_i8mm)
  set(SUBBYTE_FLAGS_neon "")
  set(SUBBYTE_FLAGS_neon_dot -march=armv8.2-a+dotprod)
  set(SUBBYTE_FLAGS_neon_i8mm -march=armv8.2-a+dotprod+i8mm)
else()
  set(SUBBYTE_ARCHS scalar)
  set(SUBBYTE_FLAGS_scalar "")
endif()

function(subbyte_add_arch_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "ARCH" "SOURCES;LINK")
  if(NOT arg_ARCH IN_LIST SUBBYTE_ARCHS)
    message(FATAL_ERROR "subbyte_add_arch_library(${name}): ARCH is \"${arg_ARCH}\", required is one of "
                        "${SUBBYTE_ARCHS}, the archs of ${CMAKE_SYSTEM_PROCESSOR}")
  endif()
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_SOURCES)
    message(FATAL_ERROR "subbyte_add_arch_library(${name}): SOURCES is missing, or not understood: "
                        "\"${arg_UNPARSED_ARGUMENTS}\"")
  endif()
  add_library(${name} OBJECT ${arg_SOURCES})
  target_compile_options(${name} PRIVATE ${SUBBYTE_FLAGS_${arg_ARCH}})
  target_link_libraries(${name} PRIVATE subbyte::cpu ${arg_LINK})
endfunction()
