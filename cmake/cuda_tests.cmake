# What nvcc compiles: host headers that promise to work on a device, the tests that run on one, and
# a few kernels for GPUs that nothing here has. Warnings are errors, and so are spills and stack frames.
#
# nvcc is called directly: CMake 3.25 does not know C++20 for nvcc 13, and enabling the language
# would make every configuration pay for a few units.
set(SUBBYTE_TEST_CUDA_ARCHITECTURES
    "80;90a"
    CACHE STRING "What every unit is compiled for")
set(SUBBYTE_TEST_CUDA_PARTS
    4
    CACHE STRING "Programs that the formats' tests are split into")
if(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE)
  message(STATUS "subbyte: no tests of the CUDA kernels on a device, they need nvcc")
  return()
endif()

file(STRINGS ${PROJECT_SOURCE_DIR}/cmake/cuda_flags.txt cuda_flags)
set(nvcc "${CUDAToolkit_NVCC_EXECUTABLE}" -std=c++20 -O2 -Xcompiler=-O0 -Werror all-warnings
         -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR}/cuda -I${CMAKE_CURRENT_SOURCE_DIR})
set(strict ${cuda_flags} -Xptxas=-Werror)

# subbyte_cuda_object(<object> <source> [KERNELS_ONLY] [ARCHITECTURES <arch>...] [FLAGS <flag>...])
# KERNELS_ONLY leaves the host's code out. FLAGS ${strict} refuses kernels that keep registers in memory.
function(subbyte_cuda_object object source)
  cmake_parse_arguments(PARSE_ARGV 2 arg "KERNELS_ONLY" "" "ARCHITECTURES;FLAGS")
  if(NOT arg_ARCHITECTURES)
    set(arg_ARCHITECTURES ${SUBBYTE_TEST_CUDA_ARCHITECTURES})
  endif()
  set(targets "")
  foreach(arch IN LISTS arg_ARCHITECTURES)
    list(APPEND targets -gencode arch=compute_${arch},code=sm_${arch})
  endforeach()
  set(output -c)
  if(arg_KERNELS_ONLY)
    set(output -fatbin)
  endif()
  list(JOIN arg_ARCHITECTURES " " names)
  cmake_path(GET object FILENAME name)
  add_custom_command(
    OUTPUT "${object}"
    COMMAND ${nvcc} ${targets} ${arg_FLAGS} -MD -MF "${object}.d" -MT "${object}" ${output} "${source}" -o "${object}"
    DEPENDS "${source}" ${PROJECT_SOURCE_DIR}/cmake/cuda_flags.txt
    DEPFILE "${object}.d"
    COMMENT "Compiling ${name} for sm ${names}" VERBATIM)
endfunction()

set(here "${CMAKE_CURRENT_BINARY_DIR}/cuda_objects")
file(MAKE_DIRECTORY "${here}")
set(objects "")

# Host headers, and those of cuda/ that need nvcc; the others are among the tests of headers.
set(device_headers ${SUBBYTE_HEADERS_core})
list(FILTER device_headers INCLUDE REGEX "/subbyte/(num/[^/]*|tensor/tensor_view|format/[^/]*)\\.hpp$")
list(APPEND device_headers ${SUBBYTE_HEADERS_cuda})
if(NOT TARGET CUDA::cublas)
  list(FILTER device_headers EXCLUDE REGEX "/gemm\\.cuh$")
endif()
list(TRANSFORM device_headers REPLACE "^.*/(subbyte/.*)$" "#include \"\\1\"" OUTPUT_VARIABLE includes)
list(JOIN includes "\n" includes)
file(CONFIGURE OUTPUT "${here}/headers.cu" CONTENT "${includes}\n")
subbyte_cuda_object("${here}/headers.o" "${here}/headers.cu")
subbyte_cuda_object("${here}/format.o" "${CMAKE_CURRENT_SOURCE_DIR}/device/format.cu")
list(APPEND objects "${here}/headers.o" "${here}/format.o")

# Compiled only: no such GPU was ever at hand.
subbyte_cuda_object("${here}/smoke.o" "${CMAKE_CURRENT_SOURCE_DIR}/device/smoke.cu" ARCHITECTURES 86 89 120 FLAGS ${strict})
list(APPEND objects "${here}/smoke.o")

# Programs that run where a GPU is, and are skipped elsewhere.
subbyte_cuda_object("${here}/main.o" "${CMAKE_CURRENT_SOURCE_DIR}/support/device_main.cpp" ARCHITECTURES 80)
set(programs "")
set(blas "")
set(link "")
if(TARGET CUDA::cublas)
  set(blas -DSUBBYTE_TEST_CUBLAS)
  set(link -lcublas)
endif()
function(subbyte_cuda_program name source)
  subbyte_cuda_object("${here}/${name}.o" "${source}" ${ARGN})
  set(program "${CMAKE_CURRENT_BINARY_DIR}/${name}")
  add_custom_command(
    OUTPUT "${program}"
    COMMAND "${CUDAToolkit_NVCC_EXECUTABLE}" "${here}/${name}.o" "${here}/main.o" ${link} -o "${program}"
    DEPENDS "${here}/${name}.o" "${here}/main.o" VERBATIM)
  add_test(NAME ${name} COMMAND "${program}")
  set_tests_properties(${name} PROPERTIES LABELS cuda SKIP_RETURN_CODE 77 RUN_SERIAL ON)
  set(programs ${programs} "${program}" PARENT_SCOPE)
endfunction()
file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu)
foreach(source IN LISTS sources)
  cmake_path(GET source STEM stem)
  file(STRINGS "${source}" parted REGEX "cuda/cases.hpp")
  if(parted)
    math(EXPR last "${SUBBYTE_TEST_CUDA_PARTS} - 1")
    foreach(part RANGE ${last})
      set(name cuda.${stem}.${part})
      set(flags FLAGS ${strict} -DSUBBYTE_TEST_PARTS=${SUBBYTE_TEST_CUDA_PARTS} -DSUBBYTE_TEST_PART=${part})
      if(EXISTS /dev/nvidia0)
        subbyte_cuda_program(${name} "${source}" ${flags})
      else()
        subbyte_cuda_object("${here}/${name}.fatbin" "${source}" KERNELS_ONLY ${flags})
        list(APPEND objects "${here}/${name}.fatbin")
      endif()
    endforeach()
    if(NOT EXISTS /dev/nvidia0) # the host's code, which nothing here runs, once
      subbyte_cuda_program(cuda.${stem}.host "${source}" ARCHITECTURES 80 FLAGS ${strict}
                           -DSUBBYTE_TESTED_FORMATS=subbyte::q4_0)
    endif()
  else()
    subbyte_cuda_program(cuda.${stem} "${source}" FLAGS ${strict} ${blas})
  endif()
endforeach()
add_custom_target(subbyte_test_device DEPENDS ${objects} ${programs})
