# One translation unit per public header, which includes it twice and nothing else: the header needs
# no other include before it, and its guard works. All units are linked into one program, which fails
# on a definition that is not inline. A second set repeats floors 0 to 5 and kernel/ with
# -fno-exceptions.

set(headers "")
set(components "")
foreach(component IN LISTS SUBBYTE_COMPONENTS)
  if(TARGET subbyte::${component})
    list(APPEND components subbyte::${component})
    list(APPEND headers ${SUBBYTE_HEADERS_${component}})
  endif()
endforeach()

set(units "")
set(units_without_exceptions "")
foreach(header IN LISTS headers)
  string(REGEX REPLACE "^.*/(include|cuda)/subbyte/" "" name "${header}")
  # Headers for a foreign library, where it is missing; mdspan has a test with the compiler it needs.
  if((name STREQUAL "exec/openmp.hpp" AND NOT OpenMP_CXX_FOUND)
     OR (name STREQUAL "interop/eigen.hpp" AND NOT TARGET Eigen3::Eigen)
     OR (name STREQUAL "cuda/gemm.cuh" AND NOT TARGET CUDA::cublas)
     OR name STREQUAL "cuda/thread.cuh" # nvcc's
     OR name STREQUAL "interop/mdspan.hpp")
    continue()
  endif()
  set(unit "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.cpp")
  file(CONFIGURE OUTPUT "${unit}"
       CONTENT "#include \"subbyte/${name}\"\n#include \"subbyte/${name}\"\n")
  if(name STREQUAL "exec/openmp.hpp")
    set_source_files_properties("${unit}" PROPERTIES COMPILE_OPTIONS "${OpenMP_CXX_FLAGS}")
  endif()
  list(APPEND units "${unit}")
  if(name MATCHES "^(core|num|exec|tensor|simd|format|matrix|layout|metrics|kernel)/")
    list(APPEND units_without_exceptions "${unit}")
  endif()
endforeach()

file(CONFIGURE OUTPUT headers/main.cpp CONTENT "int main() {}\n")
add_executable(subbyte_test_headers ${units} ${CMAKE_CURRENT_BINARY_DIR}/headers/main.cpp)
target_link_libraries(subbyte_test_headers PRIVATE subbyte_development ${components})
target_compile_options(subbyte_test_headers PRIVATE -O0)
if(OpenMP_CXX_FOUND)
  target_link_libraries(subbyte_test_headers PRIVATE ${OpenMP_CXX_LIBRARIES})
endif()
if(TARGET Eigen3::Eigen)
  target_link_libraries(subbyte_test_headers PRIVATE Eigen3::Eigen)
endif()

add_library(subbyte_test_headers_without_exceptions OBJECT ${units_without_exceptions})
target_link_libraries(subbyte_test_headers_without_exceptions PRIVATE subbyte_development
                                                                      ${components})
target_compile_options(subbyte_test_headers_without_exceptions PRIVATE -O0 -fno-exceptions)
